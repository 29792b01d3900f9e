"""The command ``qcp-ref``, as ``python -m qcp_ref``. Checked by tests/app/test_main.py."""

import sys

from qcp_ref.app.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())

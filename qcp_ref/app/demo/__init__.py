"""The demo: compress the bundled network by several methods, check it, and show what it costs.

Read in this order: ``measure`` (all numbers), ``tables`` (what the terminal shows), ``plots`` (the
picture). Checked by tests/app/demo/.
"""

from qcp_ref.app.demo.measure import DemoResult, Settings, run

__all__ = ["DemoResult", "Settings", "run"]

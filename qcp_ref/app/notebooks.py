"""The tutorials, for those who have no checkout: copied out of the package, opened in Jupyter."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from qcp_ref.app.files import write_atomically

__all__ = ["copy_notebooks", "open_notebooks"]

# In a checkout the notebooks lie beside the package, in an installed wheel inside of it.
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "notebooks", _PACKAGE.parent / "notebooks")


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the tutorials that are not in the folder yet, and return all of them, in their order.

    What is there already is kept: it may hold a reader's work. Links to pages of the site, which
    is not copied, become plain text.
    """
    source = next(place for place in _FOLDERS if place.is_dir())
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for notebook in sorted(source.glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8")
        plain = re.sub(r"\[([^\[\]]+)\]\(\.\./docs/[^)]*\)", r"\1", text)
        copies.append(folder / notebook.name)
        if not copies[-1].exists():
            write_atomically(copies[-1], partial(Path.write_text, data=plain, encoding="utf-8"))
    return copies


def open_notebooks(folder: Path) -> int:
    """Start JupyterLab there, and return its exit code once it has been stopped."""
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    return subprocess.run(command, check=False).returncode

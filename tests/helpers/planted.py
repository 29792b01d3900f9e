"""A small project that obeys every rule of tests/structure, and how a fault is planted in it.

``write`` makes the project. ``add`` and ``replace`` change one of its files, which is named by a
module ("cp", "app/cli") or by its path ("docs/index.rst").
"""

import json
from pathlib import Path

from sources import PARTS

FUNCTION_TEXT = '''
def {name}(X, /, *, mode=0):
    """Return it.

    Parameters
    ----------
    X : array_like, shape (I, R)
        Tensor.
    mode : int
        Mode.

    Returns
    -------
    ndarray
        The tensor.

    Notes
    -----
    Equation @`{chapter}-word`.

    **Laws**

    - *same*: it is itself

    Examples
    --------
    >>> 1
    1
    """
    return X
'''
CLASS_TEXT = '''
__all__ = ["Both"]


class Both:
    """Two.

    Parameters
    ----------
    a, b
        Numbers.
    """

    a: int
    c: int
'''
LAWS_TEXT = '''

class Both:
    """Two.

    **Laws**

    - without name,
      as before

    """

    def add(self):
        """Add.

        **Laws**

        - *sum*: of both
        """

    def none(self):
        """Nothing.

        **Laws**

        * a star
        """
'''
TESTS = """

@law("{name}.same")
@given(numbers)
def test_same(x):
    assert {name}(x) is x


LAST = test_same
TABLE = [(test_same, 1), (test_same, 2), (partial(LAST), 3)]


@pytest.mark.parametrize(("test", "fault"), TABLE)
def test_planted_faults_are_caught(test, fault):
    assert caught(test, fault)
"""
HEADER = '"""Why? Checked by tests/{0}.py."""\n\nimport numpy as np\n'
MATH = ".. math::\n   :label: {}\n\n   x = x\n"
FIRST, SECOND = (
    "from qcp_ref.tensors.tensor import unfold\n",
    "from qcp_ref.tensors.cp import norm\n",
)
KERNELS = "\n__all__: list[str] = []\n\n\ndef kernel():\n    import numba\n"
LATE = "\n\ndef _late():\n    import scipy\n    from qcp_ref.tensors.tensor import unfold\n"
LOOPS = '''"""Loops."""

from itertools import product

__all__ = ["product_of"]


def product_of(x):
    """Return it."""
    return product(x)
'''
COMMAND = '''"""Command."""

from qcp_ref import norm

__all__ = ["main"]


def main():
    """Run."""
    print(norm)
'''
CELL = {"cell_type": "code", "outputs": [], "execution_count": None, "source": ["assert 1 < 2"]}
TEST = "tests/tensors/test_cp.py"
CITED = "\n@law({})\ndef test_more():\n    pass\n"


def chapter_text(chapter, name):
    text = FUNCTION_TEXT.format(name=name, chapter=chapter)
    return HEADER.format(f"tensors/test_{chapter}") + f'\n__all__ = ["{name}"]\n' + text


def write(root):
    """Write the small project into a folder."""
    files = {
        "qcp_ref/__init__.py": '"""All."""\n\n' + FIRST + SECOND + '__all__ = ["norm", "unfold"]\n',
        "qcp_ref/_checks.py": HEADER.format("test_checks") + "\n__all__: list[str] = []\n",
        "qcp_ref/_kernels.py": HEADER.format("test_kernels") + KERNELS,
        "qcp_ref/tensors/__init__.py": '"""Tensors."""\n',
        "qcp_ref/tensors/tensor.py": chapter_text("tensor", "unfold"),
        "qcp_ref/tensors/cp.py": chapter_text("cp", "norm") + LATE,
        "qcp_ref/loops/__init__.py": LOOPS,
        "qcp_ref/app/__init__.py": '"""App."""\n\n__all__: list[str] = []\n',
        "qcp_ref/app/cli.py": COMMAND,
        "notebooks/01.ipynb": json.dumps({"cells": [CELL]}),
    }
    for name in ("tensor", "cp"):
        files[f"docs/theory/tensors/{name}.rst"] = MATH.format(f"{name}-word")
        files[f"docs/api/tensors/{name}.rst"] = f"@`{name}-word`\n"
    for name in ("test_checks", "test_kernels", "app/test_cli"):
        files[f"tests/{name}.py"] = ""
    for chapter, name in (("tensor", "unfold"), ("cp", "norm")):
        files[f"tests/tensors/test_{chapter}.py"] = TESTS.format(name=name)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@`", ":eq:`"))  # the role, for no other check


def file_of(project, place):
    """Return the path of a module ("cp", "app/cli") or of any other file ("docs/index.rst")."""
    module = not Path(place).suffix and not place.startswith(".")
    place = {
        **{name: f"{part}/{name}" for part, names in PARTS.items() for name in names},
        "loops": "loops/__init__",
    }.get(place, place)
    return project / (f"qcp_ref/{place}.py" if module else place)


def add(project, place, text):
    """Add text at the end of a file, which may be new."""
    path = file_of(project, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(text)


def replace(project, place, old, new):
    """Replace a part of a file, which has to be there."""
    path = file_of(project, place)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

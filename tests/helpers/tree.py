"""The shape of the package, for the rules in tests/structure: parts, chapters, rings."""

import ast
from pathlib import Path

from sources import CHAPTERS, FUNCTIONS, GROUND

ROOT = Path(__file__).parents[2]

BOOK = [*GROUND[:-1], *CHAPTERS]
RINGS = ["book", "conformance", "app"]
ROOMS = [f"conformance.{room}" for room in ("cases", "judging", "faults", "running")]
ALONE = {"loops": set(), "minimal": {"numpy"}}  # import nothing of the package, these packages


def ring(name):
    top = "app" if name == "__main__" else name.split(".")[0]
    return top if top in RINGS else "book"


def defined(tree):
    """Names bound at a module's top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def parameters(function, *, method=False):
    """(names that may be given by position, all names)."""
    arguments = function.args
    by_position = [a.arg for a in [*arguments.posonlyargs, *arguments.args]][int(method) :]
    starred = [a.arg for a in [arguments.vararg] if a]
    options = [a.arg for a in [*arguments.kwonlyargs, arguments.kwarg] if a]
    return by_position + starred, by_position + starred + options

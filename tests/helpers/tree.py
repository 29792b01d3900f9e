"""The shape of the package, for the rules in tests/structure: parts, chapters, rings."""

import ast
from pathlib import Path

from sources import FUNCTIONS

ROOT = Path(__file__).parents[2]

# The reading order: a module imports only what stands before it, of its own part or of a part on a
# lower floor. Later chapters have their place.
GROUND = ["_door", "_checks", "_wide", "_results", "_kernels", "_threads", "bounds"]
PARTS = {
    "tensors": ["tensor", "cp", "sweep", "svd", "als"],
    "grids": ["grid", "minimum", "scale"],
    "factors": [
        *[
            "quantized",
            "secular",
            "epc",
            "admm",
            "ao_admm",
            "proofs",
            "descent",
            "rows",
            "start",
            "search",
        ],
        "methods",
    ],
    "layers": ["geometry", "conv", "cost", "output", "layer", "ranges", "integer"],
    "networks": ["jobs", "frontier", "allocation"],
}
CHAPTERS = ["bounds", *(f"{part}.{name}" for part, names in PARTS.items() for name in names)]
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

"""How large the parts of the package are, and what each of them says of itself.

For the page of the API and for scripts/structure.py, which compares with earlier states.
"""

import ast
from typing import NamedTuple

from sources import code_lines, literal_all, modules

ORDER = ("ground floor", "tensors", "grids", "factors", "layers", "networks")
APPENDICES = ("minimal", "loops", "conformance", "related", "app")
# Where the chapters stand that were flat before the book had parts.
FLAT = {
    **dict.fromkeys(["tensor", "cp", "svd", "als"], "tensors"),
    **dict.fromkeys(["grid", "minimum", "scale"], "grids"),
    **dict.fromkeys(["qcp", "epc", "admm", "proofs", "rows", "start", "search"], "factors"),
    **dict.fromkeys(["conv", "cost", "output", "layer", "ranges", "integer"], "layers"),
    "budget": "networks",
}


class Part(NamedTuple):
    """Files, lines of code (no docstrings, comments or blank lines), names that it exports."""

    files: int
    lines: int
    names: int


def part_of(module):
    """Return the part of a module; the table of contents and the command belong to none."""
    top = module.split(".")[0]
    ground = top == "bounds" or (top[0] == "_" and top[1] != "_")
    return "ground floor" if ground else FLAT.get(top, top)


def read(root):
    """Return the parts by name: those of the book in reading order, then what stands around it."""
    sources = modules(root)
    found = dict.fromkeys((*ORDER, *APPENDICES), Part(0, 0, 0))
    for module, source in sources.items():
        name = part_of(module)
        if name not in found:
            continue
        files, lines, names = found[name]
        names += len(exported(module, source))
        found[name] = Part(files + 1, lines + len(code_lines(source)), names)
    return {name: part for name, part in found.items() if part.files}


def exported(module, source):
    """Return the public names that a module adds: of an appendix, those of its front door."""
    if part_of(module) in APPENDICES and "." in module:
        return []
    return literal_all(ast.parse(source)) or []


def total(parts):
    """Return the book's own sum: without appendices."""
    return Part(*map(sum, zip(*(parts[name] for name in ORDER if name in parts), strict=True)))


def table(parts):
    """Return the rows of a table: a heading, the parts, the sum of the book."""
    rows = [("part", *Part._fields)]
    rows += [(name, *part) for name, part in parts.items() if name in ORDER]
    rows.append(("the book", *total(parts)))
    rows += [(name, *part) for name, part in parts.items() if name in APPENDICES]
    return [tuple(str(cell) for cell in row) for row in rows]


def sentence(root, part):
    """Return what a part's docstring says first."""
    sources = modules(root)
    return (ast.get_docstring(ast.parse(sources[part])) or "").split("\n\n")[0].replace("\n", " ")

"""How the package's sources are read, without importing them, and in which order.

By the structure rules (tests/helpers/tree.py), by the sizes of the parts (parts.py beside this
file) and by scripts/structure.py, which reads earlier states of the project as well.
"""

import ast
import io
import re
import tokenize
from functools import cache

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# The reading order: a module imports only what stands before it, of its own part or of a part on a
# lower floor. Later chapters have their place.
GROUND = ["_door", "_checks", "_wide", "_results", "_kernels", "_threads", "bounds"]
_FACTORS = ["quantized", "secular", "epc", "admm", "ao_admm", "proofs", "descent", "rows"]
PARTS = {
    "tensors": ["tensor", "cp", "sweep", "svd", "als"],
    "grids": ["grid", "minimum", "scale"],
    "factors": [*_FACTORS, "start", "search", "methods"],
    "layers": ["geometry", "conv", "cost", "output", "layer", "ranges", "integer"],
    "networks": ["jobs", "frontier", "allocation"],
}
CHAPTERS = ["bounds", *(f"{part}.{name}" for part, names in PARTS.items() for name in names)]


def modules(root):
    """Dotted name below qcp_ref -> source, for every module; a package goes by its own name."""
    package = root / "qcp_ref"
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def prose_lines(tree):
    """Numbers of the lines taken by docstrings and other bare strings."""
    strings = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
    return {line for node in strings for line in range(node.lineno, node.end_lineno + 1)}


@cache
def code_lines(source):
    """Numbers of the lines that hold code: no docstrings, comments or blank lines."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    silent |= {tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return frozenset(lines - prose_lines(ast.parse(source)))


def imports(tree):
    """Yield (module, name or None, runs at import time) of every import, however deep."""

    def visit(node, eager):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((base, alias.name, eager) for alias in node.names)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager and not typing_only and not isinstance(node, FUNCTIONS))

    yield from visit(tree, True)


def target(module, imported, sources):
    """Return the module of qcp_ref that an import names ("" for the whole package), else None."""
    if module.split(".")[0] != "qcp_ref":
        return None
    outer = module.partition(".")[2]
    inner = f"{outer}.{imported}".strip(".")
    return inner if inner in sources else outer


def literal_all(tree):
    """Return the module's literal ``__all__``, or None if it has none or changes it later."""
    if sum(isinstance(n, ast.Name) and n.id == "__all__" for n in ast.walk(tree)) != 1:
        return None
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        target = node.targets[0] if isinstance(node, ast.Assign) else target
        if isinstance(target, ast.Name) and target.id == "__all__":
            try:
                return [str(name) for name in ast.literal_eval(node.value)]
            except ValueError:
                return None
    return None


def crossing(sources):
    """Yield (module, name, owner) of each underscore name that a module takes from another one."""
    for module, source in sources.items():
        tree, inside = ast.parse(source), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qcp_ref"):
                for alias in node.names:
                    if f"{node.module}.{alias.name}".removeprefix("qcp_ref.") in sources:
                        inside.add(alias.asname or alias.name)
                    elif re.match(r"_(?!_)", alias.name):
                        yield module, alias.name, node.module
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
                owner = node.value.id if isinstance(node.value, ast.Name) else None
                if owner in inside:
                    yield module, node.attr, owner

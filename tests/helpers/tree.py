"""The shape of the package, and how its sources are read, for the rules in tests/structure."""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The reading order: a module imports only what stands before it, of its own part or of a part on a
# lower floor. Later chapters have their place.
GROUND = ["_door", "_checks", "_wide", "_results", "_kernels", "_threads", "bounds"]
PARTS = {
    "tensors": ["tensor", "cp", "sweep", "svd", "als"],
    "grids": ["grid", "minimum", "scale"],
    "factors": [
        *["quantized", "epc", "admm", "ao_admm", "proofs", "descent", "rows", "start", "search"],
        "methods",
    ],
    "layers": ["geometry", "conv", "cost", "output", "layer", "ranges", "integer"],
    "networks": ["jobs", "frontier", "allocation"],
}
CHAPTERS = ["bounds", *(f"{part}.{name}" for part, names in PARTS.items() for name in names)]
BOOK = [*GROUND[:-1], *CHAPTERS]
RINGS = ["book", "conformance", "app"]
ALONE = {"loops": set(), "minimal": {"numpy"}}  # import nothing of the package, these packages

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def modules(root):
    """Dotted name below qcp_ref -> source, for every module; a package goes by its own name."""
    package = root / "qcp_ref"
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def ring(name):
    top = "app" if name == "__main__" else name.split(".")[0]
    return top if top in RINGS else "book"


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


def code_lines(source):
    """Numbers of the lines that hold code: no docstrings, comments or blank lines."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    silent |= {tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - prose_lines(ast.parse(source))


def imports(tree):
    """(module, name or None, runs at import time) of every import, however deep."""

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

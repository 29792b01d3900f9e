"""The shape of the package: rings, reading order, budgets, labels, docstrings.

Each rule is a function from a project's root to a list of complaints. The first test runs them all
on this project; the others plant a fault in a small copy of its layout and see that rule catch it.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import laws  # noqa: E402 - no package

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
    "networks": ["frontier", "allocation"],
}
FLOOR = {"tensors": 1, "grids": 1, "factors": 2, "layers": 3, "networks": 4}
CHAPTERS = ["bounds", *(f"{part}.{name}" for part, names in PARTS.items() for name in names)]
BOOK = [*GROUND[:-1], *CHAPTERS]
# Chapters without equations of their own: they serve others, or share a page with one.
PAGES = {
    "factors.quantized": "factors/qcp",
    "factors.ao_admm": "factors/qcp",
    "factors.descent": "factors/rows",
    "factors.methods": "factors/search",
    "layers.geometry": "layers/conv",
    "layers.layer": "layers/conv",
    "networks.frontier": "networks/budget",
    "networks.allocation": "networks/budget",
    "tensors.sweep": "tensors/als",
}
RINGS = ["book", "conformance", "app"]
PACKAGES = {
    "book": {"numpy", "scipy", "numba", "threadpoolctl"},
    "conformance": {"numpy", "scipy", "threadpoolctl", "hypothesis", "pytest"},
    "app": {"numpy", "scipy", "threadpoolctl", "rich", "matplotlib"},
}
LAZY = {"scipy", "numba"}  # in the book: importing qcp_ref has to stay cheap
COMMANDS = {"conformance.__main__"}  # outside the app, what may print
LOADERS = {"conformance.worker"}  # import what a user names
ALONE = {"loops": set(), "minimal": {"numpy"}}  # import nothing of the package, these packages

# No caps on totals: they were met by packing arguments, which is harder to read than a longer text.
MODULE, FUNCTION, PARAMETERS = 350, 40, 6
PAGE = 120  # lines of minimal.py, empty ones and comments included
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# --- reading the sources -------------------------------------------------------------------------


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


# --- the rules -----------------------------------------------------------------------------------


def check_reading_order(root):
    """Only known modules; imports point upwards in the book, and from outer rings inwards."""
    complaints = []
    sources = modules(root)
    for name, source in sources.items():
        if not has_place(name):
            complaints.append(f"{name}: has no place in the reading order")
            continue
        for module, imported, _ in imports(ast.parse(source)):
            if module.startswith("."):
                complaints.append(f"{name}: relative import of {module}")
            if module.split(".")[0] != "qcp_ref":
                continue
            target = ".".join(module.split(".")[1:])
            inner = f"{target}.{imported}".strip(".")
            if inner in sources:
                target = inner
            if not allowed(name, target or None):
                complaints.append(f"{name}: may not import {target or 'the whole package'}")
    return complaints


def has_place(name):
    """Is this module, or the ring or part that it belongs to, known?"""
    top = name.split(".")[0]
    return name in [*BOOK, *PARTS, "__init__", "__main__"] or top in [*RINGS[1:], *ALONE]


def allowed(importer, target):
    """May this module import that one (None: the package itself)?"""
    own, other = importer.split(".")[0], target and target.split(".")[0]
    if own == other and own not in PARTS:
        return True  # inside a ring, or inside the loops
    if importer == "__main__":
        return other == "app"
    if own in ALONE or other == "minimal":  # to be read and to be checked: nothing is built on it
        return False
    if importer == "__init__":
        return target in CHAPTERS
    if ring(importer) == "book":
        if target not in BOOK or importer not in BOOK:
            return False
        floors = FLOOR.get(other, 0), FLOOR.get(own, 0)
        return floors[0] < floors[1] or (
            other in {own, target} and BOOK.index(target) < BOOK.index(importer)
        )
    if other == "loops":
        return own == "conformance"
    return target is None or RINGS.index(ring(target)) < RINGS.index(ring(importer))


def check_packages(root):
    """Third-party packages belong to their ring; scipy and numba load late, numba in one module."""
    complaints = []
    for name, source in modules(root).items():
        tree = ast.parse(source)
        for module, _, eager in imports(tree):
            package = module.split(".")[0]
            if package in sys.stdlib_module_names or package in {"qcp_ref", ""}:
                continue
            if package not in ALONE.get(name.split(".")[0], PACKAGES[ring(name)]):
                complaints.append(f"{name}: may not import {package}")
            elif package == "numba" and name != "_kernels":
                complaints.append(f"{name}: numba is imported in _kernels only")
            elif ring(name) == "book" and package in LAZY and eager:
                complaints.append(f"{name}: {package} has to be imported inside a function")
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            hides = called.split(".")[-1] in {"__import__", "import_module"}
            if hides and name not in LOADERS:
                complaints.append(
                    f"{name}:{node.lineno}: imports by {called}, which hides the import"
                )
    return complaints


def check_silence(root):
    """Nothing in the book or the oracle prints, except a command."""
    complaints = []
    for name, source in modules(root).items():
        if ring(name) == "app" or name in COMMANDS:
            continue
        for node in ast.walk(ast.parse(source)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "pprint", "sys.stdout.write", "sys.stderr.write"}:
                complaints.append(f"{name}:{node.lineno}: {called} in a ring that does not print")
    return complaints


def check_budgets(root):
    """Code lines per module and per function; parameters."""
    complaints = []
    for name, source in modules(root).items():
        lines = code_lines(source)
        if name not in {"loops", "_kernels"} and len(lines) > MODULE:
            complaints.append(f"{name}: {len(lines)} code lines, at most {MODULE}")
        if name == "minimal" and len(source.splitlines()) > PAGE:
            complaints.append(f"{name}: {len(source.splitlines())} lines, at most {PAGE}")
        tree = ast.parse(source)
        methods = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
        for node in ast.walk(tree):
            if not isinstance(node, FUNCTIONS):
                continue
            length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            if length > FUNCTION:
                complaints.append(f"{name}.{node.name}: {length} code lines, at most {FUNCTION}")
            static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
            count = len(parameters(node, method=node in methods and not static)[0])
            if count > PARAMETERS:
                complaints.append(f"{name}.{node.name}: {count} parameters, at most {PARAMETERS}")
    return complaints


def check_names(root):
    """A literal ``__all__`` everywhere; the table of contents re-exports what the chapters name."""
    complaints, expected = [], {}
    sources = modules(root)
    for name, source in sources.items():
        tree = ast.parse(source)
        names = literal_all(tree)
        if name == "minimal":
            continue  # a page to be read whole
        if name in PARTS:
            if len(tree.body) > 1:
                complaints.append(f"{name}: a part's __init__ holds a docstring, got more")
            continue
        if names is None:
            complaints.append(f"{name}: no literal __all__")
            continue
        if len(set(names)) != len(names):
            complaints.append(f"{name}: __all__ repeats a name")
        if ring(name) == "book" and name != "__init__":
            inside = {imported for module, imported, _ in imports(tree) if name == "loops"}
            missing = sorted(set(names) - defined(tree) - inside)
            complaints += [
                f"{name}: __all__ names {m}, which is not defined there" for m in missing
            ]
        if name in CHAPTERS and names:
            expected[name] = names
        if name.startswith("_") and name != "__init__" and names:
            complaints.append(f"{name}: the ground floor has no public names")
    found, order = {}, []
    tree = ast.parse(sources["__init__"])
    for module, imported, _ in imports(tree):
        if module.startswith("qcp_ref."):
            found.setdefault(module.removeprefix("qcp_ref."), []).append(imported)
            order.append(module.removeprefix("qcp_ref."))
    for name in sorted(expected.keys() | found.keys()):
        if sorted(found.get(name, [])) != sorted(expected.get(name, [])):
            complaints.append(f"__init__: does not re-export the __all__ of {name}")
    reading = [name for name in BOOK if name in order]
    if list(dict.fromkeys(order)) != reading:
        complaints.append(f"__init__: chapters out of reading order, expected {', '.join(reading)}")
    everything = sorted(name for names in expected.values() for name in names)
    if sorted(literal_all(tree) or []) != everything:
        complaints.append("__init__: __all__ is not the union of the chapters' __all__")
    return complaints


def check_underscores(root):
    """No underscore name crosses a file: neither by an import nor as a module's attribute."""
    complaints, sources = [], modules(root)
    for name, source in sources.items():
        tree, inside = ast.parse(source), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qcp_ref"):
                for alias in node.names:
                    place = f"{node.module}.{alias.name}".removeprefix("qcp_ref.")
                    if place in sources:
                        inside.add(alias.asname or alias.name)
                    elif re.match(r"_(?!_)", alias.name):
                        complaints.append(f"{name}: {alias.name} of {node.module} is its own")
        complaints += [
            f"{name}: {node.attr} of {node.value.id} is its own"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in inside and re.match(r"_(?!_)", node.attr)
        ]
    return complaints


def check_labels(root):
    """Each equation is labelled once, in the theory page of its chapter; each citation resolves."""
    complaints, labels = [], Counter()
    texts = {f"qcp_ref/{name}": source for name, source in modules(root).items()}
    for folder, suffix in (("docs", "rst"), ("notebooks", "ipynb"), ("tests", "py")):
        for path in sorted((root / folder).rglob(f"*.{suffix}")):
            place = path.relative_to(root)
            if "_build" not in place.parts and path.name != Path(__file__).name:
                texts[place.as_posix()] = path.read_text(encoding="utf-8")
    for place, text in texts.items():
        for label in re.findall(r"^ +:label: +(\S+)", text, re.MULTILINE):
            labels[label] += 1
            if not place.startswith("docs/theory/"):
                complaints.append(f"{place}: label {label} stands outside docs/theory")
            elif not label.startswith(Path(place).stem + "-"):
                complaints.append(f"{place}: label {label} does not begin with the chapter's name")
    complaints += [f"label {label} stands {n} times" for label, n in labels.items() if n > 1]
    for place, text in texts.items():
        for cited in re.findall(r":eq:`([^`]*)`", text):
            if re.sub(r".*<(.*)>", r"\1", cited) not in labels:
                complaints.append(f"{place}: cites the unknown equation {cited}")
    return complaints


def section(doc, title):
    """Body of one numpydoc section, None where there is no such section."""
    found = re.search(
        rf"^{title}\n-+\n(.*?)(?=^[^\n]+\n-{{3,}}\n|\Z)", doc, re.MULTILINE | re.DOTALL
    )
    return found[1] if found else None


def check_docstrings(root):
    """Public functions document parameters, result, laws and an example."""
    complaints = []
    for name, source in modules(root).items():
        tree = ast.parse(source)
        if not ast.get_docstring(tree):
            complaints.append(f"{name}: no module docstring")
        tests = re.findall(r"tests/[\w/]*test_\w+\.py", ast.get_docstring(tree) or "")
        if name in BOOK and not tests:
            complaints.append(
                f"{name}: the module docstring does not say which test file checks it"
            )
        complaints += [f"{name}: {file} is missing" for file in tests if not (root / file).exists()]
        public = literal_all(tree) or []
        for node in tree.body:
            if getattr(node, "name", None) not in public:
                continue
            where, doc = f"{name}.{node.name}", ast.get_docstring(node) or ""
            if not doc:
                complaints.append(f"{where}: no docstring")
            if isinstance(node, FUNCTIONS) and name in CHAPTERS:
                complaints += [f"{where}: {what}" for what in docstring_faults(node, doc)]
            elif isinstance(node, ast.ClassDef):
                if section(doc, "Parameters") and documented(doc) != fields(node):
                    complaints.append(f"{where}: lists {documented(doc)}, takes {fields(node)}")
                complaints += [
                    f"{where}.{method.name}: no docstring"
                    for method in node.body
                    if isinstance(method, FUNCTIONS)
                    and not method.name.startswith("_")
                    and not ast.get_docstring(method)
                ]
    return complaints


def documented(doc):
    """Names in the Parameters section."""
    groups = re.findall(
        r"^(\*{0,2}\w[\w, *]*?) ?(?::|$)", section(doc, "Parameters") or "", re.MULTILINE
    )
    return [n.strip("* ") for group in groups for n in group.split(",")]


def fields(node):
    """Names that a class is made with."""
    made = [f for f in node.body if isinstance(f, FUNCTIONS) and f.name == "__init__"]
    names = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
    return parameters(made[0], method=True)[1] if made else [n for n in names if n != "_"]


def docstring_faults(function, doc):
    names = parameters(function)[1]
    if documented(doc) != names:
        yield f"the Parameters section lists {documented(doc)}, the signature has {names}"
    if section(doc, "Returns") is None and section(doc, "Yields") is None:
        yield "no Returns or Yields section"
    if not re.search(r"^\*\*Laws\*\*\n\n- ", section(doc, "Notes") or "", re.MULTILINE):
        yield "no list headed **Laws** in Notes"
    if ">>>" not in (section(doc, "Examples") or ""):
        yield "no doctest in Examples"


def check_laws(root):
    """Each law has a name, a property test that cites it, and planted faults that need it."""
    return laws.complaints(laws.read(root))


def check_companions(root):
    """Each module has its test file or names one; each chapter has its theory and API page."""
    complaints = []
    for name, source in modules(root).items():
        parts = name.split(".")
        inside = name == "__init__" or name in {*PARTS, "app", "conformance", "loops"}
        if inside or parts[0] == "loops" or parts[-1].startswith("test_"):
            continue  # the loops are tested as one module
        own = "/".join(["tests", *parts[:-1], f"test_{parts[-1].strip('_')}.py"])
        needed = [] if "tests/" in (ast.get_docstring(ast.parse(source)) or "") else [own]
        if parts[0] == "conformance":
            # The kit is tested by what it does; each part is imported by some test.
            tests = "".join(path.read_text() for path in sorted((root / "tests").rglob("*.py")))
            if re.search(rf"conformance(\.| import [^)]*?\b){parts[-1]}\b", tests):
                needed = []
        if name in CHAPTERS:
            place = name.replace(".", "/")
            needed += [f"docs/api/{place}.rst", f"docs/theory/{PAGES.get(name, place)}.rst"]
        complaints += [
            f"{name}: {file} is missing" for file in needed if not (root / file).exists()
        ]
    return complaints


def check_machine_paths(root):
    """No path of somebody's machine and no package index is written into the project."""
    # In pieces, so that this file passes its own rule.
    places = r"work|root|opt|home/\w+|Users/\w+|tmp/venv"
    indexes = "--(?:extra-)?index-" + "url|python" + "hosted"
    pattern = re.compile(rf"(?<![\w./~-])/(?:{places})/|{indexes}")
    suffixes = {".py", ".rst", ".md", ".toml", ".yaml", ".cff", ".ipynb", ".json", ".bib", ""}
    skipped = {".git", "build", "_build", "_generated", "__pycache__", "venv", ".venv"}
    complaints = []
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root)
        hidden = any(p.startswith(".") and p not in {".ci", ".gitignore"} for p in place.parts)
        if (
            not path.is_file()
            or path.suffix not in suffixes
            or hidden
            or skipped & set(place.parts)
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                complaints.append(f"{place}:{number}: a path of one machine, or a package index")
    return complaints


def check_notebooks(root):
    """Notebooks have no outputs, use public names only and end in a cell that asserts."""
    complaints = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = [
            cell
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        ]
        if any(cell["outputs"] or cell["execution_count"] for cell in cells):
            complaints.append(f"{path.name}: stored outputs; run nbstripout")
        code = ["".join(cell["source"]) for cell in cells]
        if not code or "assert " not in code[-1]:
            complaints.append(f"{path.name}: the last code cell asserts nothing")
        if re.search(r"qcp_ref\._|import +_|qcp_ref\.loops", "\n".join(code)):
            complaints.append(f"{path.name}: uses names that are not public")
    return complaints


RULES = [
    *[check_reading_order, check_packages, check_silence, check_budgets, check_names],
    *[check_underscores, check_labels, check_docstrings, check_laws, check_companions],
    *[check_machine_paths, check_notebooks],
]


@pytest.mark.parametrize("rule", RULES)
def test_this_project(rule):
    complaints = rule(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


# --- planted faults ------------------------------------------------------------------------------

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
    Equation :eq:`{chapter}-word`.

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


def chapter_text(chapter, name):
    text = FUNCTION_TEXT.format(name=name, chapter=chapter)
    return HEADER.format(f"tensors/test_{chapter}") + f'\n__all__ = ["{name}"]\n' + text


@pytest.fixture
def tree(tmp_path):
    """Return a small project that obeys every rule."""
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
        files[f"docs/api/tensors/{name}.rst"] = f":eq:`{name}-word`\n"
    for name in ("test_checks", "test_kernels", "app/test_cli"):
        files[f"tests/{name}.py"] = ""
    for chapter, name in (("tensor", "unfold"), ("cp", "norm")):
        files[f"tests/tensors/test_{chapter}.py"] = TESTS.format(name=name)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_small_project_obeys_every_rule(tree):
    assert [complaint for rule in RULES for complaint in rule(tree)] == []


def lines(count):
    return "".join(f"    x = {i}\n" for i in range(count))


def file_of(tree, place):
    """Return the path of a module ("cp", "app/cli") or of any other file ("docs/index.rst")."""
    module = not Path(place).suffix and not place.startswith(".")
    place = {
        **{name: f"{part}/{name}" for part, names in PARTS.items() for name in names},
        "loops": "loops/__init__",
    }.get(place, place)
    return tree / (f"qcp_ref/{place}.py" if module else place)


TEST = "tests/tensors/test_cp.py"
CITED = "\n@law({})\ndef test_more():\n    pass\n"
# rule -> where, text added at the end, what the complaint has to say
ADDED = {
    check_reading_order: [
        ("tensor", "from qcp_ref.tensors.cp import norm\n", "tensor: may not import tensors.cp"),
        ("tensor", "def _f():\n    from qcp_ref.tensors import cp\n", "import tensors.cp"),
        ("tensor", "from qcp_ref import tensors\n", "may not import tensors"),
        ("grid", "from qcp_ref.tensors.cp import norm\n", "grids.grid: may not import tensors.cp"),
        ("_checks", "from qcp_ref.tensors.cp import norm\n", "_checks: may not import tensors.cp"),
        ("tensor", "def _f():\n    import qcp_ref\n", "the whole package"),
        ("tensor", "class _C:\n    from .cp import norm\n", "relative import"),
        ("cp", "from qcp_ref.app.cli import main\n", "cp: may not import app"),
        ("cp", "from qcp_ref import loops\n", "cp: may not import loops"),
        ("app/cli", "from qcp_ref.loops import product_of\n", "import loops"),
        ("loops", "from qcp_ref._checks import x\n", "loops: may not import"),
        ("minimal", "from qcp_ref.tensors.cp import norm\n", "minimal: may not import tensors.cp"),
        ("cp", "from qcp_ref.minimal import epc\n", "cp: may not import minimal"),
        ("extra", '"""New."""\n', "extra: has no place"),
    ],
    check_packages: [
        ("loops", "import numpy\n", "loops: may not import numpy"),
        ("minimal", "import scipy\n", "minimal: may not import scipy"),
        ("cp", "import torch\n", "cp: may not import torch"),
        ("cp", "from scipy import optimize\n", "scipy has to be imported inside"),
        ("_kernels", "import numba\n", "numba has to be imported inside"),
        ("cp", "def _f():\n    from numba import njit\n", "in _kernels only"),
        ("cp", "__import__('torch')\n", "hides the import"),
    ],
    check_silence: [
        ("cp", "def _f(x):\n    print(x)\n", "print in a ring"),
        ("cp", "import sys\nsys.stderr.write('x')\n", "sys.stderr.write in a ring"),
    ],
    check_budgets: [
        ("cp", "def _f():\n" + lines(40), "cp._f: 41 code lines"),
        ("cp", "def _f():\n" + lines(39) + "    return (\n        1\n    )\n", "_f: 43"),
        ("cp", "def _f(a, b, c, d, e, f, g):\n    pass\n", "cp._f: 7 parameters"),
        ("cp", "class _C:\n    def f(self, a, b, c, d, e, f, *g):\n        pass\n", "f: 7"),
        ("cp", "x = 1\n" * 350, "cp: 357 code lines, at most 350"),
        ("minimal", "x = 1\n\n\n" * 40 + "x = 2\n", "minimal: 121 lines, at most 120"),
    ],
    check_names: [
        ("cp", '__all__ += ["b"]\nb = 1\n', "cp: no literal __all__"),
        ("extra", "__all__ = [x for x in 'ab']\n", "extra: no literal __all__"),
        ("grid", '__all__ = ["b"]\nb = 1\n', "does not re-export the __all__ of grid"),
        ("grid", '__all__ = ["b"]\n', "__all__ names b, which is not defined"),
        ("__init__", "from qcp_ref.tensors.cp import _late\n", "does not re-export"),
        ("tensors/__init__", "x = 1\n", "tensors: a part's __init__ holds a docstring"),
    ],
    check_underscores: [
        (
            "cp",
            "def _f():\n    from qcp_ref.tensors.tensor import _x\n",
            "cp: _x of qcp_ref.tensors",
        ),
        ("cp", "from qcp_ref.tensors import tensor\ntensor._x()\n", "cp: _x of tensor is its own"),
    ],
    check_labels: [
        ("cp", "# see :eq:`cp-missing`\n", "cites the unknown equation cp-missing"),
        ("docs/index.rst", ":eq:`text <cp-missing>`\n", "unknown equation text <cp-missing>"),
        ("docs/theory/tensors/cp.rst", MATH.format("cp-word"), "label cp-word stands 2 times"),
        ("docs/theory/tensors/cp.rst", MATH.format("word"), "does not begin with the chapter"),
        ("docs/index.rst", MATH.format("cp-other"), "stands outside docs/theory"),
    ],
    check_companions: [
        ("grid", '"""New."""\n', "tests/grids/test_grid.py is missing"),
        ("grid", '"""New."""\n', "docs/theory/grids/grid.rst is missing"),
        ("app/extra", '"""New."""\n', "tests/app/test_extra.py is missing"),
    ],
    check_docstrings: [
        ("grid", "x = 1\n", "grid: no module docstring"),
        ("grid", '"""Why?"""\n', "which test file checks it"),
        ("grid", '"""Why? By tests/test_none.py."""\n', "grid: tests/test_none.py is missing"),
        ("grid", CLASS_TEXT, "grid.Both: lists ['a', 'b'], takes ['a', 'c']"),
    ],
    check_laws: [
        ("cp", LAWS_TEXT, "cp.Both: expected '- *slug*: law', got 'without name, as before'"),
        ("cp", LAWS_TEXT, "cp: no property test cites Both.add.sum"),
        ("cp", LAWS_TEXT, "cp.Both.none: expected '- *slug*: law', got ''"),
        (TEST, CITED.format('"norm.same", "norm.size"'), "cites norm.size, which is no law"),
        (TEST, CITED.format('"norm.same"'), "cites norm.same, but does not use norm"),
        (TEST, CITED.format("NAME"), "test_cp.py: test_more cites NAME, which is no law"),
        (TEST, CITED.format('"norm.same"').replace("test_", ""), "more cites laws, but is no test"),
        ("grid", LAWS_TEXT, "grid: 0 planted faults"),
    ],
    check_machine_paths: [
        ("docs/index.rst", "see /wo" + "rk/main\n", "docs/index.rst:1: a path"),
        (".ci/run", "pip install --index" + "-url x\n", "package index"),
    ],
}
# rule -> where, part of the text, what replaces it, what the complaint has to say
REPLACED = {
    check_docstrings: [
        ("cp", "    mode : int\n        Mode.\n", "", "the signature has"),
        ("cp", "    mode : int", "    axis : int", "lists ['X', 'axis']"),
        ("cp", "Returns\n    -------", "Result\n    ------", "no Returns or Yields"),
        ("cp", "**Laws**", "Laws", "no list headed **Laws**"),
        ("cp", "- *same*: it", "It", "no list headed **Laws**"),
        ("cp", ">>> 1\n", "", "no doctest"),
        ("loops", '"""Return it."""', "pass", "loops.product_of: no docstring"),
    ],
    check_laws: [
        ("cp", "*same*: ", "", "cp.norm: expected '- *slug*: law', got 'it is itself'"),
        ("cp", "*same*: ", "*same* ", "got '*same* it is itself'"),
        ("cp", "*same*: ", "*The same*: ", "got '*The same*: it is itself'"),
        ("cp", "itself\n", "itself\n    - *same*: again\n", "norm.same: 2 laws have this name"),
        ("cp", "itself\n", "itself\n\n    - *more*: it\n", "no property test cites norm.more"),
        (TEST, '@law("norm.same")\n', "", "cp: no property test cites norm.same"),
        (TEST, '@law("norm.same")\n', "", "cp: 0 planted faults are caught by tests that cite"),
        (TEST, "@given(numbers)\n", "", "cp: no property test cites norm.same"),
        (TEST, "LAST = test_same", "LAST = test_other", "cp: 2 planted faults"),
        (TEST, "(test_same, 1), ", "", "cp: 2 planted faults"),
        (TEST, "assert caught(", "assert run(", "cp: 0 planted faults"),
        ("cp", "tests/tensors/test_cp.py", "tests/tensors/test_tensor.py", "cp: 0 planted faults"),
    ],
    check_names: [
        ("__init__", '"norm", ', "", "__all__ is not the union"),
        ("__init__", FIRST + SECOND, FIRST, "the __all__ of tensors.cp"),
        ("__init__", FIRST + SECOND, SECOND + FIRST, "out of reading order"),
        ("cp", '["norm"]', '["norm", "norm"]', "repeats a name"),
    ],
    check_labels: [
        ("docs/theory/tensors/cp.rst", "   :label: cp-word\n", "", "unknown equation cp-word"),
    ],
    check_notebooks: [
        ("notebooks/01.ipynb", '"outputs": []', '"outputs": ["x"]', "stored outputs"),
        ("notebooks/01.ipynb", "assert 1 < 2", "x = 1", "asserts nothing"),
        ("notebooks/01.ipynb", "assert 1", "import qcp_ref._checks; assert 1", "not public"),
    ],
}


def each(table):
    return [
        pytest.param(rule, *fault, id=f"{rule.__name__}-{fault[-1]}")
        for rule in table
        for fault in table[rule]
    ]


@pytest.mark.parametrize(("rule", "place", "text", "expected"), each(ADDED))
def test_planted_fault_is_caught(tree, rule, place, text, expected):
    path = file_of(tree, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(text)
    assert expected in "\n".join(rule(tree))


@pytest.mark.parametrize(("rule", "place", "old", "new", "expected"), each(REPLACED))
def test_planted_change_is_caught(tree, rule, place, old, new, expected):
    path = file_of(tree, place)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert expected in "\n".join(rule(tree))


@pytest.mark.parametrize(
    "last",
    [
        "def test_fault():\n    assert caught(LAST, norm=len)\n",
        "def test_fault():\n    test = test_same\n    assert caught(test, norm=len)\n",
        "@pytest.mark.parametrize('x', [1])\ndef test_fault(x):\n    assert caught(test_same)\n",
    ],
)
def test_faults_without_a_table_are_counted_by_calls(tree, last):
    path = tree / TEST
    path.write_text(path.read_text().replace("(test_same, 1), ", "") + "\n\n" + last)
    assert check_laws(tree) == []


def test_laws_and_their_tests_are_listed(tree):
    text = laws.page(laws.read(tree))
    assert text.startswith("2 laws, cited by 2 tests.\n")
    row = "   * - :py:obj:`norm <qcp_ref.tensors.cp.norm>` *same*\n     - it is itself\n"
    assert row in text and ":doc:`/api/tensors/tensor`" in text


def test_every_rule_has_a_planted_fault():
    assert set(RULES) == ADDED.keys() | REPLACED.keys()


def test_code_lines_are_counted_without_prose():
    source = '"""Doc.\n\nMore.\n"""\n\n# comment\nx = [  # open\n    1,\n\n]\ntext = """a\nb"""\n'
    assert sorted(code_lines(source)) == [7, 8, 10, 11, 12]

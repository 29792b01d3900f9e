"""The laws of the book: what the public docstrings state, which property tests hold it.

Read from the sources, without importing them, by docs/conf.py for a page and by
tests/structure/test_laws.py for its complaints. Rules of reading:

- A law is a bullet ``- *slug*: text`` of the list headed ``**Laws**`` in the docstring of a public
  function, class or method. Its name is ``function.slug``, ``Class.slug`` or ``Class.method.slug``.
- A test cites laws by the decorator ``@law("function.slug", ...)`` of tests/helpers/support.py.
  Each law is cited by a property test at least: one that Hypothesis gives its arguments, by
  ``@given``. What cites the law of a function or method names it, or uses something in its file
  that does.
- A planted fault is a row of the ``parametrize`` of a test that calls ``caught``; without rows it
  is a call of ``caught``. The tests that catch it are those that the row names, directly or through
  constants of the file; if it names none, those that the test itself names.
- The faults of a chapter are those in the test files that its module says it is checked by.
"""

import ast
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from code_map import closure, labels_of, module_name

ROOT = Path(__file__).parents[2]
SLUG = re.compile(r"\*([a-z0-9]+(?:-[a-z0-9]+)*)\*: +(?=\S)")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FAULTS = 3  # of each chapter, at least, are caught by tests that cite its laws


class Law(NamedTuple):
    """One bullet: the module and what it describes; ``slug`` is empty if the bullet has none."""

    module: str
    owner: str
    slug: str
    text: str

    @property
    def name(self):
        """Return what tests cite."""
        return f"{self.owner}.{self.slug}"


class Test(NamedTuple):
    """A function that cites laws, whether it is a property test, and the names it uses."""

    file: str
    name: str
    drawn: bool
    cited: list[str]
    used: set[str]


class Fault(NamedTuple):
    """One planted fault: its file and line, and the names of the tests that catch it."""

    file: str
    line: int
    tests: set[str]


class Book(NamedTuple):
    """All of it, chapters in reading order; ``files``: the test files that each of them names."""

    laws: list[Law]
    files: dict[str, list[str]]
    tests: list[Test]
    faults: list[Fault]


def read(root=ROOT):
    """Return the laws of a project, its tests and its planted faults."""
    laws, files, tests, faults = [], {}, [], []
    contents = (root / "qcp_ref" / "__init__.py").read_text(encoding="utf-8")
    order = re.findall(r"^from qcp_ref\.([\w.]+) import", contents, re.MULTILINE)
    places = {module_name(root, path): path for path in (root / "qcp_ref").rglob("*.py")}
    for name in sorted(sorted(places), key=lambda name: [*order, name].index(name)):
        path = places[name]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = list(stated(name, tree))
        laws += found
        if found:
            files[name] = re.findall(r"tests/([\w/]*test_\w+\.py)", ast.get_docstring(tree) or "")
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        file = path.relative_to(root / "tests").as_posix()
        tests += citing(file, tree)
        faults += planted(file, tree)
    return Book(laws, files, tests, faults)


def stated(module, tree, owner=""):
    """Yield the laws in the docstrings of what a module or a class defines."""
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            name = owner + node.name
            for bullet in bullets(ast.get_docstring(node) or ""):
                slug = SLUG.match(bullet)
                text = bullet[slug.end() :] if slug else bullet
                yield Law(module, name, slug[1] if slug else "", text)
            if isinstance(node, ast.ClassDef):
                yield from stated(module, node, f"{name}.")


def bullets(doc):
    """Return the bullets below **Laws**, each in one line; an empty one if there are none."""
    _, heading, rest = doc.partition("**Laws**\n")
    found = []
    for line in rest.splitlines():
        if line.startswith("- "):
            found.append(line[2:].strip())
        elif line.startswith("  ") and found:
            found[-1] += f" {line.strip()}"
        elif line.strip():
            break
    return found or [""] * bool(heading)


def citing(file, tree):
    """Yield the functions of a test file that cite laws."""
    parts = {}
    for node in tree.body:
        for label in labels_of(node):
            parts[label] = parts.get(label, set()) | words(node)
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
            names = [name for call in calls if called(call) == "law" for name in call.args]
            cited = [n.value if isinstance(n, ast.Constant) else ast.unparse(n) for n in names]
            if cited:
                drawn = any(called(call) == "given" for call in calls)
                yield Test(file, node.name, drawn, cited, closure(words(node), parts))


def words(node):
    """Return the names in a piece of code: variables, attributes, fixtures, also as texts."""
    keys = ("id", "attr", "arg", "value")
    found = {getattr(n, key, None) for n in ast.walk(node) for key in keys}
    return {name for name in found if isinstance(name, str) and name.isidentifier()}


def called(call):
    """Return the last part of the name of what is called."""
    return ast.unparse(call.func).rpartition(".")[2]


def planted(file, tree):
    """Yield the planted faults of a test file."""
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in tree.body:
        if not isinstance(node, DEFINITIONS) or not node.name.startswith("test_"):
            continue
        within = [n for part in node.body for n in ast.walk(part)]
        calls = [n for n in within if isinstance(n, ast.Call) and called(n) == "caught"]
        for row in (rows(node, constants) or calls) if calls else ():
            own = named(row, constants)
            tests = own or {name for part in node.body for name in named(part, constants)}
            yield Fault(file, row.lineno, tests)


def rows(test, constants):
    """Return the rows of a test's table."""
    found = []
    for call in test.decorator_list:
        if isinstance(call, ast.Call) and called(call) == "parametrize":
            table = call.args[1]
            table = constants.get(table.id, table) if isinstance(table, ast.Name) else table
            found += getattr(table, "elts", [])
    return found


def named(node, constants):
    """Return the tests that a piece of code names, directly or through constants."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    through = [constants[name] for name in names if name in constants]
    inner = {n.id for value in through for n in ast.walk(value) if isinstance(n, ast.Name)}
    return {name for name in names | inner if name.startswith("test_")}


def holders(book):
    """Return for each name that is cited the tests that cite it."""
    found = {}
    for test in book.tests:
        for name in test.cited:
            found.setdefault(name, []).append(test)
    return found


def complaints(book):
    """Return what is wrong with laws, citations and planted faults."""
    held, known = holders(book), Counter(law.name for law in book.laws if law.slug)
    owners = {law.name: law.owner.rpartition(".")[2] for law in book.laws}
    wrong = [f"{name}: {count} laws have this name" for name, count in known.items() if count > 1]
    for law in book.laws:
        if not law.slug:
            wrong.append(f"{law.module}.{law.owner}: expected '- *slug*: law', got '{law.text}'")
        elif not any(test.drawn for test in held.get(law.name, ())):
            wrong.append(f"{law.module}: no property test cites {law.name}")
    for test in book.tests:
        place = f"tests/{test.file}: {test.name}"
        if not test.name.startswith("test_"):
            wrong.append(f"{place} cites laws, but is no test")
        wrong += [f"{place} cites {n}, which is no law" for n in test.cited if n not in known]
        wrong += [
            f"{place} cites {n}, but does not use {owners[n]}"
            for n in test.cited
            if n in known and owners[n][0].islower() and owners[n] not in test.used
        ]
    return wrong + too_few_faults(book)


def too_few_faults(book):
    """Return the chapters whose laws are not needed to catch enough faults."""
    wrong = []
    for module, files in book.files.items():
        own = {law.name for law in book.laws if law.module == module}
        tests = {(test.file, test.name) for test in book.tests if own.intersection(test.cited)}
        faults = [
            fault
            for fault in book.faults
            if fault.file in files and any((fault.file, name) in tests for name in fault.tests)
        ]
        if len(faults) < FAULTS:
            wrong.append(
                f"{module}: {len(faults)} planted faults are caught by tests that cite its laws, "
                f"expected at least {FAULTS}"
            )
    return wrong


def page(book):
    """Return the page: a table for each module, a row for each law."""
    held = holders(book)
    lines = [f"{len(book.laws)} laws, cited by {len(book.tests)} tests.", ""]
    for module in dict.fromkeys(law.module for law in book.laws):
        lines += [
            f":doc:`/api/{module.replace('.', '/')}`",
            "-" * 60,
            "",
            f".. py:currentmodule:: qcp_ref.{module}",
        ]
        lines += ["", ".. list-table::", "   :header-rows: 1", "   :widths: 20 50 30"]
        lines += ["   :class: code-map", ""]
        cells = [("law", "what it says", "tests")]
        for law in book.laws:
            if law.module == module:
                first = f":py:obj:`{law.owner} <qcp_ref.{module}.{law.owner}>` *{law.slug}*"
                tests = ", ".join(f"``{test.name}``" for test in held.get(law.name, ()))
                cells.append((first, law.text, tests))
        lines += [f"   {'*' if n == 0 else ' '} - {c}" for row in cells for n, c in enumerate(row)]
        lines.append("")
    return "\n".join(lines)

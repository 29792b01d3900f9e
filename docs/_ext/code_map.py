"""Map of the equations: what computes each of them, what tests it, and where it comes from.

Read from the sources, without importing them, by docs/conf.py for a page and by
tests/docs/test_code_map.py for its complaints. Rules of reading:

- An equation is a labelled ``.. math::`` of docs/theory.
- A *place* cites it: a function, class or method whose docstring or comments hold its label, else
  the module. "a to b", with two labels of one page, cites all from a to b.
- Its tests are those in the files that the citing module says it is checked by, if they use one of
  the citing places, directly or through helpers and fixtures of their file; if there are none,
  through other names of the citing module.
- Its provenance is given by the tags of the sentence that it is part of, before and after it; else
  by those of the rest of the paragraph before it; else by the tag that follows the citation in a
  docstring of the chapter, in the same sentence; else by that of the chapter, which stands before
  the first equation in a sentence with the words "chapter" or "what follows".
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KINDS = ("abstract", "authors' code", "source: ", "derived", "beyond the paper")
TAG = re.compile(rf"\[((?:{'|'.join(KINDS)})[^\[\]`]*)\]")
CITED = re.compile(r":eq:`([^`<]+)`(?:[\s#]+to[\s#]+:eq:`([^`<]+)`)?")
WHOLE = re.compile(r"\b(?:chapter|[Ww]hat follows)\b")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Equation(NamedTuple):
    """A labelled equation: its page in docs/theory, its own tags, and those of the chapter."""

    label: str
    page: str
    tags: tuple[str, ...]
    chapter: tuple[str, ...]


class Place(NamedTuple):
    """What cites: a name in a module of qcp_ref ("" for the module itself)."""

    module: str
    name: str


class Citation(NamedTuple):
    """One citation: the place's name, first and last label, and the tag that follows, or None."""

    name: str
    first: str
    last: str
    tag: str | None


class Module(NamedTuple):
    """What a module says: its public names, its test files, its citations.

    ``functions`` includes the public methods of public classes; ``parts`` maps each name of the
    module to the words that its definition consists of.
    """

    public: list[str]
    functions: list[str]
    tests: list[str]
    cited: list[Citation]
    parts: dict[str, set[str]]


class Map(NamedTuple):
    """All of it: for each equation the places that cite it and the tests of these, by file."""

    equations: dict[str, Equation]
    modules: dict[str, Module]
    places: dict[str, list[Place]]
    tests: dict[str, dict[str, list[str]]]
    untested: list[Place]
    unknown: list[str]


def read(root=ROOT):
    """Return the map of a project."""
    equations, modules = theory(root), sources(root)
    places, unknown = cite(equations, modules)
    public = {name: m for m in chapters(root) for name in modules[m].public}
    files = {file for found in modules.values() for file in found.tests}
    there = [file for file in sorted(files) if (root / file).exists()]
    used = {file: uses(root / file, public, modules) for file in there}
    tests, tested = {}, set()
    for label, cited in places.items():
        homes = [equations[label].page, *(place.module for place in cited)]
        own = [file for home in homes if home in modules for file in modules[home].tests]
        tests[label] = {}
        for file in dict.fromkeys(file for file in own if file in used):
            by = {t: [p for p in cited if stands(p, names)] for t, names in used[file].items()}
            tests[label][file] = [test for test, found in by.items() if found]
            tested |= {p for found in by.values() for p in found if file in modules[p.module].tests}
        if not any(tests[label].values()):
            for file in tests[label]:
                by = {t: reached(names, modules) for t, names in used[file].items()}
                tests[label][file] = [
                    test for test, names in by.items() if any(stands(p, names) for p in cited)
                ]
    claimed = {p for cited in places.values() for p in cited if claims(p, modules, root)}
    return Map(equations, modules, places, tests, sorted(claimed - tested), unknown)


def cite(equations, modules):
    """Return the places of each equation and complaints; give equations the tags of docstrings."""
    order, places, unknown = list(equations), {label: [] for label in equations}, []
    for module, found in modules.items():
        for name, first, last, tag in found.cited:
            missing = sorted({first, last} - equations.keys())
            span = [] if missing else order[order.index(first) : order.index(last) + 1]
            if {equations[label].page for label in span} - {
                equations[label].page for label in span[:1]
            }:
                span = []
            if not span:
                lost = " and ".join(missing) or f"{first} to {last}"
                unknown.append(f"{module}.{name}: cites {lost}, which is no equation")
            for label in span:
                equation, place = equations[label], Place(module, name)
                if place not in places[label]:
                    places[label].append(place)
                if tag and part_of(module) == part_of(equation.page) and not equation.tags:
                    equations[label] = equation._replace(tags=(tag,))
    for label, equation in equations.items():
        equations[label] = equation._replace(tags=equation.tags or equation.chapter)
    return places, unknown


def part_of(name):
    """Return the part that a module or a page belongs to."""
    return name.rpartition(".")[0]


def chapters(root):
    """Return the modules whose public names qcp_ref exports: those with a page of the API."""
    apart, folder = {"index", "loops", "conformance"}, root / "docs" / "api"
    return sorted({dotted(path, folder) for path in folder.rglob("*.rst")} - apart)


def claims(place, modules, root):
    """Tell whether a place is a public function of a chapter, whose tests have to use it."""
    return place.module in chapters(root) and place.name in modules[place.module].functions


def complaints(found):
    """Return what is wrong with a map."""
    wrong = list(found.unknown)
    for label, equation in found.equations.items():
        if not found.places[label]:
            wrong.append(f"{label}: no function and no module cites it")
        if not equation.tags:
            wrong.append(f"{label}: nothing says where it comes from")
        if found.places[label] and not any(found.tests[label].values()):
            wrong.append(f"{label}: no test uses what cites it")
    for module, name in found.untested:
        wrong.append(f"{module}.{name}: cites an equation, but no test file of its module uses it")
    return wrong


# --- theory pages --------------------------------------------------------------------------------


def theory(root):
    """Return every equation by label, in the order of the pages and of their text."""
    found = {}
    for page in pages(root):
        text = (root / "docs" / "theory" / f"{page}.rst").read_text(encoding="utf-8")
        equations = read_page(page.replace("/", "."), text)
        found |= {equation.label: equation for equation in equations}
    return found


def pages(root):
    """Return the names of the theory pages in reading order."""
    index = (root / "docs" / "theory" / "index.rst").read_text(encoding="utf-8")
    return re.findall(r"^   ([\w/]+)$", index, re.MULTILINE)


def blocks_of(text):
    """Split a page into (kind, text): 'math' with what is indented below, 'text', 'title'."""
    blocks = []
    for block in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
        lines = block.splitlines()
        if block[0] == " " and blocks and blocks[-1][0] == "math":
            blocks[-1] = ("math", f"{blocks[-1][1]}\n\n{block}")
        elif block.lstrip().startswith(".. math::"):
            blocks.append(("math", block))
        elif len(lines) == 2 and re.fullmatch(r"([=~^*-])\1+", lines[1]):
            blocks.append(("title", block))
        else:
            blocks.append(("text", " ".join(block.split())))
    return blocks


def read_page(page, text):
    """Return the equations of one page with their tags."""
    blocks = blocks_of(text)
    kinds = [kind for kind, _ in blocks]
    opening = blocks[: kinds.index("math")] if "math" in kinds else []
    said = sentences(" ".join(text for kind, text in opening if kind == "text"))
    chapter = [tag for text in said if WHOLE.search(text) for tag in TAG.findall(text)]
    found = []
    for n, (kind, block) in enumerate(blocks):
        label = re.search(r"^ +:label: +(\S+)", block, re.MULTILINE) if kind == "math" else None
        if label:
            tags = dict.fromkeys([*tags_before(blocks, n), *tags_after(blocks, n)])
            found.append(Equation(label[1], page, tuple(tags), tuple(chapter)))
    return found


def tags_before(blocks, n):
    """Return the tags of the paragraph before an equation, less what belongs to an earlier one."""
    while n > 0 and blocks[n][0] == "math":
        n -= 1
    kind, text = blocks[n]
    if kind != "text":
        return []
    after_maths = n > 0 and blocks[n - 1][0] == "math"
    said = sentences(text)
    continues = after_maths and (text[0].islower() or text[0] == "[")
    if continues and len(said) > 1:
        del said[0]
    elif continues:
        return [*tags_before(blocks, n - 1), *TAG.findall(text)]
    return TAG.findall(said[-1]) or TAG.findall(" ".join(said))


def tags_after(blocks, n):
    """Return the tags of the end of an equation's sentence, or run of equations, behind it."""
    while n < len(blocks) and blocks[n][0] == "math":
        n += 1
    if n == len(blocks) or blocks[n][0] != "text":
        return []
    text = blocks[n][1]
    return TAG.findall(sentences(text)[0]) if text[0].islower() or text[0] == "[" else []


def sentences(text):
    """Split text at the ends of sentences."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z:*`])", text)


# --- modules -------------------------------------------------------------------------------------


def sources(root):
    """Return what each module of the package says, by its dotted name below qcp_ref."""
    found = {}
    for path in sorted((root / "qcp_ref").rglob("*.py")):
        name = module_name(root, path)
        module = read_module(path.read_text(encoding="utf-8"))
        *parts, last = name.split(".")
        default = "/".join(["tests", *parts, f"test_{last.strip('_')}.py"])
        if not module.tests and (root / default).exists():
            module.tests.append(default)
        found[name] = module
    return found


def dotted(path, folder):
    """Return the name of a file within a folder, with dots between its parts."""
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def module_name(root, path):
    """Return the dotted name of a module below qcp_ref; a package goes by its own name."""
    name = dotted(path, root / "qcp_ref")
    return name.removesuffix("__init__").rstrip(".")


def read_module(text):
    """Return what one module says; equations are cited in docstrings and in comments."""
    tree = ast.parse(text)
    spans = {}
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            spans[node.name] = node
        if isinstance(node, ast.ClassDef):
            spans |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, FUNCTIONS)}
    cited = []
    for match in CITED.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        around = [name for name, node in spans.items() if node.lineno <= line <= node.end_lineno]
        clause = " ".join(text[match.end() :].split())
        tag = TAG.match(re.sub(r"^[^.;\[]*(?=\[)", "", clause))
        cited.append(Citation((around or [""])[-1], match[1], match[2] or match[1], tag and tag[1]))
    listed = [node.value for node in tree.body if "__all__" in labels_of(node)]
    public = [str(name) for value in listed for name in ast.literal_eval(value)]
    functions = [
        name
        for name, node in spans.items()
        if isinstance(node, FUNCTIONS) and name.partition(".")[0] in public and "._" not in name
    ]
    tests = re.findall(r"tests/[\w/]*test_\w+\.py", ast.get_docstring(tree) or "")
    parts = {label: words(node) for node in tree.body for label in labels_of(node)}
    return Module(public, functions, tests, cited, parts)


def labels_of(node):
    """Return the names that a statement at the top of a file defines."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return [node.name] if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else []


def words(node):
    """Return the names in a statement, those of arguments (which pytest looks up) included."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}


# --- tests ---------------------------------------------------------------------------------------


def uses(path, public, modules):
    """Return for each test of a file the names it uses, as (module, name), and all attributes.

    What the helpers and fixtures of the file use, and the values of its constants, counts for the
    tests that use those. ``public`` maps what ``qcp_ref`` exports to the chapter it comes from.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = imports(tree, public, modules)
    own, parts = {}, {}
    for node in tree.body:
        names = {imported[word] for word in words(node) & imported.keys()}
        for n in ast.walk(node):
            if isinstance(n, ast.Attribute):
                names.add(("", n.attr))
                base = imported.get(n.value.id) if isinstance(n.value, ast.Name) else None
                if base and not base[1]:  # a module's attribute
                    names.add((base[0] or public.get(n.attr, ""), n.attr))
        for label in labels_of(node):
            own[label] = own.get(label, set()) | names
            parts[label] = parts.get(label, set()) | words(node)
    return {
        test: set().union(*(own[label] for label in closure([test], parts) & own.keys()))
        for test in own
        if test.startswith("test_")
    }


def imports(tree, public, modules):
    """Return local name -> (module, name) of what a file imports of qcp_ref; "" for a module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(a.asname or a.name): ("", "") for a in node.names if a.name == "qcp_ref"}
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "qcp_ref":
            continue
        module = node.module.partition(".")[2]
        for alias in node.names:
            name = alias.asname or alias.name
            if f"{module}.{alias.name}" in modules:
                found[name] = (f"{module}.{alias.name}", "")
            elif module:
                found[name] = (module, alias.name)
            else:  # a public name, or else a module; a function's name goes before a module's
                home = public.get(alias.name)
                found[name] = (home, alias.name) if home else (alias.name, "")
    return found


def closure(names, parts):
    """Return names with all that they use, directly or not, within their file."""
    found, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += parts.get(name, ())
    return found


def reached(names, modules):
    """Add to names what they use within their own modules."""
    more = {
        (module, inner)
        for module, name in names
        if module in modules and name in modules[module].parts
        for inner in closure([name], modules[module].parts) & modules[module].parts.keys()
    }
    return names | more


def stands(place, names):
    """Tell whether a place is among the names that a test uses."""
    owner, _, method = place.name.partition(".")
    return (place.module, owner) in names and (not method or ("", method) in names)


# --- the page ------------------------------------------------------------------------------------

COLUMNS = ("equation", "from", "code", "tests")
WIDTHS = "20 22 33 25"


def page(found, operations):
    """Return the page: a table for each theory page. ``operations`` maps the kit's to equations."""
    tests = {t for files in found.tests.values() for f, names in files.items() for t in names}
    lines = [
        f"{len(found.equations)} equations; {len(tests)} tests use the code that cites them.",
        "",
    ]
    for name in dict.fromkeys(equation.page for equation in found.equations.values()):
        lines += [
            f":doc:`/theory/{name.replace('.', '/')}`",
            "-" * 60,
            "",
            ".. list-table::",
            "   :header-rows: 1",
        ]
        lines += [f"   :widths: {WIDTHS}", "   :class: code-map", ""]
        lines += row(COLUMNS)
        for label, equation in found.equations.items():
            if equation.page == name:
                asked = [op for op, its in operations.items() if its == label]
                tags = ", ".join(f"[{tag}]" for tag in equation.tags)
                cells = f":eq:`{label}` ``{label}``", tags, code(found, equation)
                lines += row([*cells, tested(found.tests[label], asked)])
        lines.append("")
    return "\n".join(lines)


def row(cells):
    """Return a row of a list-table."""
    return [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(cells)]


def code(found, equation):
    """Return links to what is on an API page, then the names of the rest; the chapter's first."""
    linked, named = [], []
    places = [p for p in found.places[equation.label] if p.name]
    for module, name in sorted(places, key=lambda p: (p.module != equation.page, p.module)):
        home = "loops" if part_of(module) == "loops" else module  # one module to its readers
        short = name if home == equation.page else f"{home}.{name}"
        owner, _, method = name.partition(".")
        page = ROOT / "docs" / "api" / f"{home.replace('.', '/')}.rst"
        known = page.exists() and home != "conformance"
        if known and owner in found.modules[home].public and not method.startswith("_"):
            linked.append(f":py:obj:`{short} <qcp_ref.{home}.{name}>`")
        else:
            named.append(f"``{short}``")
    modules = dict.fromkeys(module for module, _ in found.places[equation.label])
    return ", ".join(linked + named or [f"``{module}``" for module in modules])


def tested(files, operations):
    """Return how many tests of each file use the code, and what the conformance kit asks."""
    cells = [f"``{Path(file).name}`` {len(names)}" for file, names in files.items() if names]
    asked = ", ".join(f"``{name}``" for name in operations)
    return ", ".join(cells) + (f"; kit: {asked}" if asked else "")

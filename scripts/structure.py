"""Measure the shape of a checkout of this project, or of several ones side by side.

    python scripts/structure.py [CHECKOUT ...] [--static] [--tests] [--changelog] [--out FILE]

A checkout is a folder, this one if none is given; ``git worktree add FOLDER COMMIT`` makes one of
an earlier state. Read off the sources: the parts with their files, lines of code and public names,
folders of modules, imports, circles of imports, underscore names that cross files, and how deep
calls go. Run, unless ``--static`` is given: how often arguments are checked, and the seconds of an
import and of the demo; with ``--tests`` also those of the test command of the README. The numbers
are printed as a table and written to a JSON file; ``--changelog`` puts those of the parts, of the
first checkout and of the last one, into the list of CHANGELOG.md that says why the parts grew.

Calls are followed where a name says what is called: functions and classes, methods of ``self`` and
of a class that is named. What a method of some other object does is not followed. Functions that
call each other count as one.
"""

import argparse
import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import parts  # noqa: E402 - it reads sources for the site, too
from sources import FUNCTIONS, code_lines, crossing, imports, modules, target  # noqa: E402

CHANGELOG = ROOT / "CHANGELOG.md"
OUT = ROOT / "benchmarks" / "results" / "structure.json"
ENTRY, STEP = "compress_conv", "admm"  # whose calls are followed
ROUNDS = 7  # imports that are timed
Node = tuple[str, str]  # module, name
Graph = dict[Any, set[Any]]


def main(arguments: list[str] | None = None) -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkouts", nargs="*", type=Path, default=[ROOT], metavar="CHECKOUT")
    parser.add_argument("--static", action="store_true", help="run nothing, only read")
    parser.add_argument("--tests", action="store_true", help="time the tests as well: minutes")
    parser.add_argument("--changelog", action="store_true", help="refresh its list of the parts")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    measured = {}
    for root in map(Path.resolve, options.checkouts):
        row = static(root)
        if not options.static:
            row |= {"calls of checks": checks(root), "seconds": seconds(root, options.tests)}
        measured[commit(root)] = row
    flags = ["--static"] * options.static + ["--tests"] * options.tests
    command = " ".join(["python scripts/structure.py", *measured, *flags])
    result = {"command": command, "machine": machine(), "checkouts": measured}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.changelog:
        first, *_, last = measured.values()
        text = CHANGELOG.read_text(encoding="utf-8")
        CHANGELOG.write_text(refreshed(text, first, last), encoding="utf-8")
    print(table(measured))
    return 0


def commit(root: Path) -> str:
    """Return the commit of a checkout, with a sign if its files differ from it."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    if not (root / ".git").exists() or not shutil.which("git"):
        return "unknown"
    changed = git("status", "--porcelain", "--", "qcp_ref")
    return git("rev-parse", "--short=7", "HEAD") + "+" * bool(changed)


def machine() -> dict[str, object]:
    """Return what the seconds depend on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba")},
    }


# --- read off the sources ------------------------------------------------------------------------


def static(root: Path) -> dict[str, Any]:
    """Return what the sources say."""
    sources = modules(root)
    edges = imported(sources)
    crossed = list(crossing(sources))
    graph = calls(sources)
    found = parts.read(root)
    return {
        "parts": {name: part._asdict() for name, part in found.items()},
        "the book": parts.total(found)._asdict(),
        "packages": len({path.parent for path in (root / "qcp_ref").rglob("__init__.py")}),
        "modules": len(sources),
        "import edges": sum(map(len, edges.values())),
        "circles of imports": [sorted(c) for c in components(edges) if len(c) > 1],
        "private names that cross files": len({(owner, name) for _, name, owner in crossed}),
        "files that take them": len({module for module, _, _ in crossed}),
        f"calls below {ENTRY}": deepest(graph, entry(graph, ENTRY), sources),
        f"calls below {STEP}": deepest(graph, entry(graph, STEP), sources),
    }


def imported(sources: dict[str, str]) -> Graph:
    """Return for each module the modules of the package that it imports, wherever it does."""
    edges: Graph = {}
    for name, source in sources.items():
        found = (target(m, what, sources) for m, what, _ in imports(ast.parse(source)))
        edges[name] = {("__init__" if t == "" else t) for t in found if t is not None} - {name}
    return edges


def components(graph: Graph) -> list[set[Any]]:
    """Return the strongly connected components, each after those that it leads to (Tarjan)."""
    index: dict[Any, int] = {}
    low: dict[Any, int] = {}
    stack: list[Any] = []
    found: list[set[Any]] = []

    def visit(node: Any) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            found.append(set(stack[place:]))
            del stack[place:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def spans(sources: dict[str, str]) -> dict[Node, ast.AST]:
    """Return the definitions of the package: functions, classes, methods, constants."""
    found: dict[Node, ast.AST] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found[module, node.name] = node
            if isinstance(node, ast.ClassDef):
                methods = [f for f in node.body if isinstance(f, FUNCTIONS)]
                found |= {(module, f"{node.name}.{f.name}"): f for f in methods}
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                names = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {(module, n.id): node for n in names if isinstance(n, ast.Name)}
    return found


def calls(sources: dict[str, str]) -> Graph:
    """Return what each definition of the package uses of the others."""
    defined = spans(sources)
    local = {module: names_of(source, sources) for module, source in sources.items()}
    graph: Graph = {}
    for (module, name), node in defined.items():
        owner = name.partition(".")[0] if "." in name else ""
        used = set()
        for word in used_words(node):
            first, _, rest = word.partition(".")
            home, outer = local[module].get(first, (module, first))
            wanted = {(home, ".".join(filter(None, (outer, rest)))), (home, outer)}
            if owner and first == "self":
                wanted = {(module, f"{owner}.{rest}")}
            used |= wanted & defined.keys()
        if isinstance(node, ast.ClassDef):
            made = ("__init__", "__post_init__", "__new__")
            used |= {(module, f"{name}.{m}") for m in made if (module, f"{name}.{m}") in defined}
        graph[module, name] = used - {(module, name)}
    return graph


def names_of(source: str, sources: dict[str, str]) -> dict[str, Node]:
    """Return local name -> (module, name) of what a module imports; "" for a whole module."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            home = target(node.module or "", alias.name, sources)
            if home is not None:
                whole = home == f"{node.module}.{alias.name}".removeprefix("qcp_ref.")
                found[alias.asname or alias.name] = (home, "" if whole else alias.name)
    return found


def used_words(node: ast.AST) -> set[str]:
    """Return the names that run with a definition, attributes as ``name.attribute``.

    A class runs its decorators, bases and constants; its methods are definitions of their own.
    Annotations do not run.
    """
    if isinstance(node, ast.ClassDef):
        inner = [n for n in node.body if not isinstance(n, FUNCTIONS)]
        roots = [*node.decorator_list, *node.bases, *inner]
    elif isinstance(node, FUNCTIONS):
        roots = [*node.decorator_list, *node.body]
    else:
        roots = [node.value] if getattr(node, "value", None) else []
    found: set[str] = set()
    queue = list(roots)
    while queue:
        part = queue.pop()
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            found.add(f"{part.value.id}.{part.attr}")
        elif isinstance(part, ast.AnnAssign):
            queue += [part.value] if part.value else []
        else:
            queue += [c for c in ast.iter_child_nodes(part) if not isinstance(c, ast.arg)]
    return found


def entry(graph: Graph, name: str) -> Node:
    """Return the public function of that name: not the one of the index loops."""
    return next(n for n in sorted(graph) if n[1] == name and "loops" not in n[0])


def deepest(graph: Graph, start: Node, sources: dict[str, str]) -> dict[str, Any]:
    """Return the longest chain of calls, and what can be reached: files and lines of code."""
    defined = spans(sources)
    chains: dict[Any, tuple[int, list[Node]]] = {}
    reached: dict[Any, set[Node]] = {}
    for group in components(graph):
        below = {other for node in group for other in graph[node]} - group
        depth, chain = max((chains[b] for b in below), default=(0, []))
        inside = set().union(group, *(reached[b] for b in below))
        runs = any(isinstance(defined[node], (*FUNCTIONS, ast.ClassDef)) for node in group)
        shown = [min(group, key=lambda node: (node != start, node))] if runs else []
        for node in group:
            chains[node], reached[node] = (depth + runs, [*shown, *chain]), inside
    depth, chain = chains[start]
    code = {module: code_lines(source) for module, source in sources.items()}
    lines = {
        (module, line)
        for module, name in reached[start]
        for line in code[module].intersection(span(defined[module, name]))
    }
    return {
        "depth": depth,
        "files": len({module for module, _ in reached[start]}),
        "lines": len(lines),
        "chain": [f"{module}.{name}" for module, name in chain],
    }


def span(node: ast.AST) -> Iterable[int]:
    """Return the numbers of a definition's lines; those of methods are their own."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    inner = [n for n in getattr(node, "body", []) if isinstance(node, ast.ClassDef)]
    own = {line for n in inner if isinstance(n, FUNCTIONS) for line in span(n)}
    return set(range(first, node.end_lineno + 1)) - own


# --- run -----------------------------------------------------------------------------------------

PROBE = """
import json, sys, threading
from collections import Counter
from pathlib import Path

import numpy as np
import qcp_ref as qcp

HOME = str(Path(qcp.__file__).parent)
assert HOME.startswith(sys.argv[1]), HOME


def count(call):
    counts = Counter()

    def watch(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HOME):
            checks = Path(code.co_filename).name in ("_checks.py", "_door.py")
            makes = code.co_name in ("__post_init__", "__init__", "__new__")
            if (checks or makes) and "<" not in code.co_name:
                counts[code.co_qualname] += 1

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        found = call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    name, most = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
    return {"all": counts.total(), "most": most, "of": name}, found


rng = np.random.default_rng(0)
W = rng.standard_normal((32, 16, 3, 3))
X = np.asarray(qcp.kernel_to_tensor(W), dtype=float)
S = qcp.second_moment(rng.standard_normal((4, 16, 12, 12)), kernel_size=3)
result, layer = {}, None
for method in ("als-round", "authors", "best"):
    key = f"compress_conv, {method}"
    result[key], layer = count(lambda: qcp.compress_conv(W, rate=2, method=method, rng=0))
result["cp_als"], fit = count(lambda: qcp.cp_als(X, layer.rank))
result["output_als"], _ = count(lambda: qcp.output_als(X, fit.cp, S))
result["polish_output"], _ = count(lambda: qcp.polish_output(X, layer.cp, S))
print(json.dumps(result))
"""


def python(root: Path, code: str, *arguments: str) -> str:
    """Run Python code with the package of a checkout; return its last line of output."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        )
    return done.stdout.strip().splitlines()[-1]


def checks(root: Path) -> dict[str, Any]:
    """Return how often arguments are checked: calls in all, and of the function called most."""
    return dict(json.loads(python(root, PROBE, str(root))))


def seconds(root: Path, tests: bool) -> dict[str, Any]:
    """Return the seconds of an import, of the demo, and of the tests if they are asked for."""
    timed = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    packages = ("numpy", "qcp_ref")
    runs = {name: [] for name in packages}
    for _ in range(ROUNDS):
        for name in packages:
            runs[name].append(float(python(root, timed.format(name))))
    numpy, ours = (median(runs[name]) for name in packages)
    demo = "from qcp_ref.app.cli import main; main(['demo', '--out', 'out']); "
    whole = f"import time; t = time.perf_counter(); {demo}print(time.perf_counter() - t)"
    found = {"import": round(ours, 3), "import of numpy": round(numpy, 3)}
    found |= {"ratio of imports": round(ours / numpy, 2), "demo": round(float(python(root, whole)))}
    if tests:
        readme = (root / "README.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"^pip install '\.\[test\]' && pytest (.*)$", readme, re.MULTILINE)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *command.split()],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found["tests"] = round(time.perf_counter() - began)
    return found


# --- show ----------------------------------------------------------------------------------------


def rows(measured: dict[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Yield (name, number) of what was measured of one checkout."""
    for key, value in measured.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            yield from rows(value, f"{name}: ")
        elif key != "chain":
            yield name, str(len(value) if isinstance(value, list) else value)


def table(measured: dict[str, Any]) -> str:
    """Return all numbers, a line for each, a column for each checkout."""
    columns = {name: dict(rows(row)) for name, row in measured.items()}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [("", *columns)]
    lines += [(name, *(column.get(name, "") for column in columns.values())) for name in names]
    width = max(map(len, names)) + 2
    return "\n".join(f.ljust(width) + "".join(c.rjust(14) for c in rest) for f, *rest in lines)


def refreshed(text: str, first: dict[str, Any], last: dict[str, Any]) -> str:
    """Return the changelog with other numbers in the list of the parts."""
    was, now = ({**row["parts"], "the book": row["the book"]} for row in (first, last))
    for name in was:
        cells = [f"{was[name][key]} to {now[name][key]} {key}" for key in ("lines", "names")]
        row = rf"^- \*\*{re.escape(name)}\*\*, \d+ to \d+ lines, \d+ to \d+ names:"
        text, count = re.subn(row, f"- **{name}**, {', '.join(cells)}:", text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"CHANGELOG.md: expected one line of {name}, got {count}")
    return text


if __name__ == "__main__":
    sys.exit(main())

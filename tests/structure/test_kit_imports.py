"""The kit: what asks and judges knows neither the book nor what is asked; no circle of imports."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from planted import add
from sources import imports, modules
from tree import ROOT

# What the files of each room may import beside its own. The other files stand on top.
MAY = {
    "spec": set(),
    "dyadic": set(),
    "cases": {"spec", "dyadic", "loops"},
    "judging": {"spec", "dyadic", "loops", "cases"},
    "adapter": {"spec", "dyadic"},
    "faults": {"spec", "dyadic", "cases", "judging", "adapter"},
    "running": {"spec", "dyadic", "cases", "judging", "adapter", "faults"},
    "reference": {"spec", "dyadic", "adapter", "book"},
    "strategies": {"book"},
}


def check_kit_imports(root):
    """Rooms import the rooms below them; of the package nothing but the loops; no circle."""
    complaints, sources, graph = [], modules(root), {}
    for name, source in sources.items():
        own = name.removeprefix("conformance.").split(".")[0]
        if not name.startswith("conformance.") or own not in MAY:
            continue
        graph[name] = set()
        for module, imported, _ in imports(ast.parse(source)):
            if module.split(".")[0] != "qcp_ref":
                continue
            inner = f"{module}.{imported}".removeprefix("qcp_ref.")
            target = inner if inner in sources else module.removeprefix("qcp_ref.")
            graph[name] |= {target} & sources.keys()
            other = target.removeprefix("conformance.").split(".")[0]
            other = other if other in {*MAY, "loops"} else "book"
            if other != own and other not in MAY[own]:
                complaints.append(f"{name}: may not import {target}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        complaints.append(f"imports go in a circle: {', '.join(circle.args[1])}")
    return complaints


def test_this_project():
    complaints = check_kit_imports(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_kit_imports(project) == []


KIT = "from qcp_ref.conformance"
# where in the kit, text added at the end, what the complaint has to say
ADDED = [
    ("cases/make", "from qcp_ref import loops, norm\n", "cases.make: may not import qcp_ref"),
    ("judging/judge", "from qcp_ref.tensors.cp import norm\n", "may not import tensors.cp"),
    ("cases/make", f"{KIT} import adapter\n", "may not import conformance"),
    ("cases/make", f"{KIT}.judging import judge\n", "may not import conformance.judging"),
    ("judging/judge", f"def f():\n    {KIT}.faults.matrix import x\n", "conformance.faults.matrix"),
    ("adapter", f"{KIT}.running.xfails import x\n", "may not import conformance.running.xfails"),
    ("strategies", f"{KIT}.spec import OPS\n", "strategies: may not import conformance.spec"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, f"conformance/{place}", text)
    assert expected in "\n".join(check_kit_imports(project))


def test_planted_circles_are_caught(project):
    add(project, "conformance/cases/make", f"{KIT}.cases import truth\n")
    add(project, "conformance/cases/truth", f"{KIT}.cases.vectors import load\n")
    assert check_kit_imports(project) == []
    add(project, "conformance/cases/vectors", f"def f():\n    {KIT}.cases.make import make\n")
    assert "circle: conformance.cases." in "\n".join(check_kit_imports(project))

"""The figures of the theory pages: drawn, always the same, and true to what is said of them."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures():
    import figures  # it draws, so it takes its time to import

    return figures


@pytest.mark.slow
def test_all_figures_are_drawn_twice_and_alike(figures, tmp_path):
    names = figures.write(tmp_path / "a")
    assert sorted(names) == sorted(file.name for file in (tmp_path / "a").iterdir())
    figures.write(tmp_path / "b")
    pages = "".join(file.read_text() for file in (ROOT / "docs" / "theory").rglob("*.rst"))
    for name in names:
        text = (tmp_path / "a" / name).read_text()
        assert text == (tmp_path / "b" / name).read_text()
        if name.endswith(".svg"):
            assert ET.fromstring(text).tag.endswith("svg")
        else:
            assert text.count(":alt: ") == 2 and "\n\n\n" not in text
            assert f".. include:: ../../_generated/figures/{name}" in pages


def test_one_path_settles_at_the_best_point_and_one_never_does(figures):
    settles, cycles = ((-1.4, (-2.33, -0.58)), (-1.6, (-1.94, -1.41)))
    for problem, arrives in ((settles, True), (cycles, False)):
        center, G, path = figures.one_row(*problem)
        assert np.linalg.cond(G) < 10
        best = figures.best_on_rays(center, G)
        near = [np.linalg.norm(H - best) < 1e-3 for _, H in path]
        assert near[-1] == arrives and any(near) == arrives
        on = [(figures.rays() @ H / np.linalg.norm(H)).argmax() for _, H in path]
        if not arrives:
            assert len(path) == 30 and len(set(on)) == 2
            assert all(a != b for a, b in pairwise(on[1:]))
            assert (figures.rays() @ best / np.linalg.norm(best)).argmax() in on


def test_swamps_are_long_and_end(figures):
    runs, (_, errors, norms) = figures.swamps()
    ends = []
    for run in runs:
        stuck = run[300:][run[300:] > 0.9 * run[:-300]]
        ends.append(bool(len(stuck)) and run[-1] < stuck[-1] / 30)
    assert len(ends) == 5 and sum(ends) == 4
    assert (np.diff(errors) < 0).all() and (np.diff(norms) > 0).all()


def test_entries_gather_on_the_levels(figures):
    near = [np.mean(abs(v - np.rint(v)) < 0.1) for v in figures.entries()]
    assert near[0] < 0.4 and near[1] > 0.95

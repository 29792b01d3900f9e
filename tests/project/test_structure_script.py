"""The script that measures the shape of a checkout finds what was planted in a small one."""

import json
import re
import sys
from pathlib import Path

import pytest
from planted import write

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "structure.json").read_text("utf-8"))
COMPRESS = '''"""Compress. Checked by tests/tensors/test_layer.py."""

from qcp_ref.tensors import tensor
from qcp_ref.tensors.cp import _late, norm

__all__ = ["compress_conv"]
LIMIT = norm


class Fit:
    def __post_init__(self):
        tensor.unfold(self)

    def more(self):
        return compress_conv(self)


def compress_conv(x: Fit):
    """Compress."""
    return start(x)


def start(x):
    return again(x) or Fit(x)


def again(x):
    _late()
    return start(LIMIT)


def admm():
    return Fit.more
'''


@pytest.fixture(scope="module")
def structure():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import structure
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return structure


@pytest.fixture(scope="module")
def measured(structure, tmp_path_factory):
    project = tmp_path_factory.mktemp("project")
    write(project)
    (project / "qcp_ref" / "layers").mkdir()
    (project / "qcp_ref" / "layers" / "__init__.py").write_text('"""Layers."""\n')
    (project / "qcp_ref" / "layers" / "layer.py").write_text(COMPRESS)
    with (project / "qcp_ref" / "tensors" / "tensor.py").open("a") as stream:
        stream.write("\n\ndef _f():\n    from qcp_ref.tensors import cp\n")
    out = project / "out.json"
    assert structure.main([str(project), "--static", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["command"] == "python scripts/structure.py unknown --static"
    return result["checkouts"]["unknown"], structure.table(result["checkouts"])


def test_parts_imports_and_circles_are_counted(measured):
    found = measured[0]
    assert found["parts"]["tensors"] == {"files": 3, "lines": 13, "names": 2}
    assert found["parts"]["layers"] == {"files": 2, "lines": 18, "names": 1}
    assert found["the book"]["names"] == 3
    assert (found["packages"], found["modules"]) == (5, 11)
    # layer: tensor and cp; cp and tensor: each other; the table: both; the command: the table.
    assert found["import edges"] == 2 + 2 + 2 + 1
    assert found["circles of imports"] == [["tensors.cp", "tensors.tensor"]]
    assert found["private names that cross files"] == found["files that take them"] == 1


def test_calls_are_followed_through_classes_constants_and_circles(measured):
    below = measured[0]["calls below compress_conv"]
    chain = ["compress_conv", "again", "Fit", "Fit.__post_init__"]
    assert [name.removeprefix("layers.layer.") for name in below["chain"][:4]] == chain
    assert below["chain"][4:] == ["tensors.tensor.unfold"]
    assert (below["depth"], below["files"]) == (5, 3)
    assert measured[0]["calls below admm"]["chain"][:2] == [
        "layers.layer.admm",
        "layers.layer.Fit.more",
    ]


def test_the_table_has_a_line_for_each_number(measured):
    lines = dict(re.split(r" {2,}", line.strip()) for line in measured[1].splitlines()[1:])
    assert lines["parts: tensors: lines"] == "13"
    assert lines["circles of imports"] == lines["files that take them"] == "1"
    assert lines["calls below compress_conv: depth"] == "5"


def test_the_list_of_the_changelog_is_refreshed(structure):
    rows = {"tensors": {"lines": 3, "names": 2}, "the book": {"lines": 10, "names": 4}}
    first = {"parts": {"tensors": rows["tensors"]}, "the book": rows["the book"]}
    last = {"parts": {"tensors": rows["the book"]}, "the book": rows["the book"]}
    text = "- **tensors**, 1 to 1 lines, 1 to 1 names: SVD.\n"
    text += "- **the book**, 0 to 0 lines, 0 to 0 names: more.\n"
    right = "- **tensors**, 3 to 10 lines, 2 to 4 names: SVD.\n"
    right += "- **the book**, 10 to 10 lines, 4 to 4 names: more.\n"
    assert structure.refreshed(text, first, last) == right
    with pytest.raises(SystemExit, match="one line of the book, got 0"):
        structure.refreshed(text.replace("the book", "all"), first, last)


def test_the_changelog_says_of_each_part_what_was_measured():
    first, last = RESULTS["checkouts"].values()
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    line = r"^- \*\*(.*)\*\*, (\d+) to (\d+) lines, (\d+) to (\d+) names: \w"
    found = re.findall(line, text, re.MULTILINE)
    said = {name: [int(n) for n in numbers] for name, *numbers in found}
    parts = [*first["parts"], "the book"]
    was, now = (row["parts"] | {"the book": row["the book"]} for row in (first, last))
    assert said == {
        name: [row[name][key] for key in ("lines", "names") for row in (was, now)] for name in parts
    }
    assert now["the book"]["names"] - was["the book"]["names"] <= 10

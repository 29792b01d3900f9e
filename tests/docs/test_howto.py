"""The how-to pages: what they show does what they say. Code in their text is run as doctests."""

import json
import re
import runpy
from collections import defaultdict
from contextlib import redirect_stdout
from importlib import resources
from io import StringIO
from pathlib import Path

import pytest

from qcp_ref.conformance import spec
from qcp_ref.conformance.__main__ import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "conformance" / "examples"


def test_the_adapter_is_short():
    lines = (PAGES / "my_adapter.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) < 10


@pytest.mark.parametrize("page", ["my_adapter", "broken_adapter"])
def test_output_on_the_pages(page, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    text = (PAGES / "my_adapter.py").read_text()
    if page == "broken_adapter":
        text = text.replace("bias, stride,", "bias, stride[::-1],")
    (tmp_path / "adapter.py").write_text(text)
    report = str(tmp_path / "out.json")
    command = [f"{tmp_path / 'adapter.py'}:impl", "-c", "conv2d.*", "--timeout", "60"]
    status = main([*command, "--report", report])
    assert status == (page == "broken_adapter")
    assert capsys.readouterr().out == (PAGES / f"{page}.txt").read_text()
    monkeypatch.setattr("sys.argv", ["which_fault.py", report])
    runpy.run_path(str(PAGES / "which_fault.py"), run_name="__main__")
    named = (PAGES / "which_fault.txt").read_text() if page == "broken_adapter" else ""
    assert capsys.readouterr().out == named


@pytest.mark.parametrize(("arith", "status"), [("f32", 0), ("f64", 1)])
def test_trial_scales_pass_for_the_exact_one_in_float32_only(arith, status, tmp_path, capsys):
    (tmp_path / "adapter.py").write_text(f"""
import numpy as np
from qcp_ref.conformance import Adapter

impl = Adapter("trials", arith="{arith}")
impl.lacks("refuses", "rule-max-abs")


@impl.op
def choose_scale(x, *, qmin, qmax, rule):
    if not x.any():
        return np.ones((), x.dtype)
    trials = np.linspace(0.2, 1, 200) * abs(x).max() / qmax
    codes = np.clip(np.rint(x.ravel() / trials[:, None]), qmin, qmax)
    errors = np.sum((x.ravel() - trials[:, None] * codes) ** 2, axis=1)
    return trials[np.argmin(errors)].astype(x.dtype)
""")
    command = [f"{tmp_path / 'adapter.py'}:impl", "-c", "choose_scale.mse.*", "--timeout", "60"]
    assert main(command) == status, capsys.readouterr().out


@pytest.fixture
def torch_layer(monkeypatch):
    """Run the file that is shown in parts; return what it defines, and prints."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(DOCS / "howto" / "examples")
    with redirect_stdout(StringIO()) as output:
        found = runpy.run_path(str(DOCS / "howto" / "examples" / "torch_use.py"))
    return {**found, "output": output.getvalue()}


def test_the_torch_layer_has_the_names_and_holds_its_own_check(torch_layer):
    assert torch_layer["output"] == (DOCS / "howto" / "examples" / "torch_names.txt").read_text()


def test_the_torch_layer_keeps_its_codes(torch_layer):
    three, cp = torch_layer["model"][0], torch_layer["layer"].cp
    for stage in three:
        values = stage.codes.double() * stage.scale
        assert (stage.weight == values.to(stage.weight.dtype)).all()
    found = [three.last.codes[:, :, 0, 0], three.first.codes[:, :, 0, 0].T]
    found.append(three.middle.codes.flatten(1).T)
    for codes, ours in zip(found, cp.codes, strict=True):
        assert (codes.numpy() == ours).all()
    scales = [three.last.scale, three.first.scale, three.middle.scale]
    assert [float(s) for s in scales] == [float(s) for s in cp.scales]


def test_a_saved_torch_layer_is_loaded_by_its_rank(torch_layer):
    import torch
    from torch_layer import stages

    three, conv, x = torch_layer["model"][0], torch_layer["conv"], torch_layer["x"]
    state = three.state_dict()
    again = stages(conv, len(state["first.weight"]))
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again(x), three(x))


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"padding_mode": "reflect", "padding": 1}, {"kernel_size": 1}]
)
def test_the_torch_layer_refuses_what_it_cannot_do(torch_layer, options):
    from torch import nn
    from torch_layer import stages

    with pytest.raises(ValueError, match="not for this kind"):
        stages(nn.Conv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **options}), 2)


def test_the_order_of_porting_names_every_operation_and_its_files():
    """Each row of the tables has a step, operations, their level, and the files of their cases."""
    folder = resources.files("qcp_ref.conformance") / "data" / "v0"
    homes = defaultdict(set)
    for file in folder.iterdir():
        if file.name.endswith(".json") and file.name != "refused.json":
            for case in json.loads(file.read_text()).get("cases", []):
                homes[case["op"]].add(file.name)
    text = (DOCS / "howto" / "port.rst").read_text()
    rows = re.findall(r"\* - \d+\n +- (.*)\n +- (L.)\n +- (.*)\n", text)
    named = []
    for operations, level, files in rows:
        names, shown = re.findall(r"``(\w+)``", operations), set(re.findall(r"``(\S+?)``", files))
        named += names
        assert {spec.OPS[name].level for name in names} == {level}
        # conv.json, the one file of several levels, has a few cases of the algebra, too
        assert set().union(*(homes[name] for name in names)) - shown <= {"conv.json"}
        assert all(any(file in homes[name] for name in names) for file in shown)
    assert sorted(named) == sorted(spec.OPS)

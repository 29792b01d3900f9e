"""The how-to pages: the adapter that they show does what they show."""

from pathlib import Path

import pytest

from qcp_ref.conformance.__main__ import main

PAGES = Path(__file__).parent.parent / "docs" / "conformance"


def test_the_adapter_is_short():
    lines = (PAGES / "my_adapter.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) < 10


@pytest.mark.parametrize("page", ["my_adapter", "broken_adapter"])
def test_output_on_the_pages(page, tmp_path, capsys):
    pytest.importorskip("torch")
    text = (PAGES / "my_adapter.py").read_text()
    if page == "broken_adapter":
        text = text.replace("bias, stride,", "bias, stride[::-1],")
    (tmp_path / "adapter.py").write_text(text)
    status = main([f"{tmp_path / 'adapter.py'}:impl", "-c", "conv2d.*", "--timeout", "60"])
    assert status == (page == "broken_adapter")
    assert capsys.readouterr().out == (PAGES / f"{page}.txt").read_text()

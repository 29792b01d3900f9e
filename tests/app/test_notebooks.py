"""The tutorials for those who have no checkout: copies, a reader's own work, Jupyter."""

import json
import sys
from types import SimpleNamespace

from qcp_ref.app import cli, notebooks


def test_the_tutorials_are_copied_without_links_that_lead_nowhere(tmp_path, capsys):
    folder = tmp_path / "new" / "place"
    assert cli.main(["notebooks", str(folder), "--copy-only"]) == 0
    assert "10 notebooks" in capsys.readouterr().out
    copies = sorted(folder.iterdir())
    assert [copy.name[:3] for copy in copies] == [f"{n:02}_" for n in range(1, 11)]
    for copy in copies:
        assert json.loads(copy.read_text("utf-8"))["cells"]
        assert "../docs/" not in copy.read_text("utf-8")


def test_a_reader_s_own_work_is_kept(tmp_path):
    mine = tmp_path / "02_cp_als.ipynb"
    mine.write_text("mine")
    assert cli.main(["notebooks", str(tmp_path), "--copy-only"]) == 0
    assert mine.read_text() == "mine" and len(list(tmp_path.iterdir())) == 10


def test_jupyter_is_started_in_the_folder(monkeypatch, tmp_path):
    started = []

    def run(command, check):
        started.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cli, "find_spec", lambda name: object())
    monkeypatch.setattr(notebooks.subprocess, "run", run)
    assert cli.main(["notebooks", str(tmp_path)]) == 0
    assert started == [[sys.executable, "-m", "jupyterlab", str(tmp_path)]]


def test_without_jupyter_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.main(["notebooks", str(tmp_path / "x")]) == 1
    assert "pip install 'qcp-ref[notebooks]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()

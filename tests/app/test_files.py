"""Files are whole or absent, those of a run belong together, and all is as documented."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import documented, keys

from qcp_ref import Grid, QuantizedCP, quantize_cp, random_cp
from qcp_ref.app import files
from qcp_ref.app.files import (
    FileError,
    load_compressed,
    load_run,
    save_compressed,
    save_results,
    write_atomically,
    write_json,
    write_run,
)

THIS = sys.modules[__name__]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": [1, 2.5], "y": "z"})
    assert json.loads(path.read_text()) == {"x": [1, 2.5], "y": "z"}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text())["y"] == "z"


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_json(tmp_path / "a.json", 1)

    def broken(part):
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, broken)
    assert path.read_text() == "1\n"
    assert names(tmp_path) == {"a.json"}


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    write_json(link, 1)
    assert target.read_text() == "mine"
    assert link.read_text() == "1\n" and not link.is_symlink()


# --- compressed layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(
    "grid",
    [
        Grid(4),
        Grid(9, narrow=True),
        Grid(2, mid_rise=True),
        Grid(3, kind="log2"),
        Grid(3, signed=False),
    ],
)
@pytest.mark.parametrize("name", ["a.npz", "a", "a.bin", "ä.npz", ".hidden"])
def test_compressed_layers_come_back_exactly(tmp_path, name, grid, axis):
    layers = {
        "block1.conv1": quantize_cp(random_cp((4, 3, 9), 2, rng=1), grid, axis=axis),
        "linear": quantize_cp(random_cp((5, 6), 3, rng=2), grid, axis=axis),
    }
    stored = load_compressed(save_compressed(tmp_path / name, layers))
    assert names(tmp_path) == {name}
    assert stored.keys() == layers.keys()
    for name, q in layers.items():
        other = stored[name]
        assert other.grid == q.grid
        for a, b in zip((*q.codes, *q.scales), (*other.codes, *other.scales), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize("grid", [Grid(4), Grid(9), Grid(4, signed=False), Grid(9, signed=False)])
def test_entries_are_as_documented(tmp_path, grid):
    said = documented("compressed.npz")
    q = quantize_cp(random_cp((4, 3, 9), 2, rng=1), grid, axis=1)
    found = set()
    with np.load(save_compressed(tmp_path / "a.npz", {"conv": q})) as archive:
        manifest = json.loads(archive["manifest.json"])
        for name in set(archive.files) - {"manifest.json"}:
            key = re.sub(r"\d$", "<n>", name.replace("conv.", "<layer>."))
            found.add(key)
            assert archive[name].dtype.name in said[key].split(", ")
        assert archive["conv.code1"].shape == (3, 2)
        assert archive["conv.scale1"].shape == (1, 2)
    assert found | {"manifest.json"} == said.keys()
    stands = {f"layers[].{part}": "<array>" for part in ("codes", "scales")}
    described, found = documented("Manifest of the layers"), dict(keys(manifest, stands))
    assert {path: said for path, said in described.items() if path in found} == found
    assert described.keys() == found.keys()


def test_codes_off_the_grid_are_refused_on_reading(tmp_path, monkeypatch):
    good = QuantizedCP([np.ones((2, 1), int), np.ones((3, 1), int)], [1.0, 1.0], Grid(3))
    off = QuantizedCP([np.full((2, 1), 9), np.ones((3, 1), int)], [1.0, 1.0], Grid(5))
    object.__setattr__(off, "grid", good.grid)
    with pytest.raises(FileError, match="codes from -4 to 3"):
        save_compressed(tmp_path / "a.npz", {"a": off})
    assert names(tmp_path) == set()


# --- a run -------------------------------------------------------------------------------------


def layers(seed):
    return {"a": quantize_cp(random_cp((4, 3, 9), 2, rng=seed), Grid(4))}


def fill(seed):
    """Return what writes the files of a small run, with its seed in both."""

    def write(folder):
        save_compressed(folder / "compressed.npz", layers(seed))
        (folder / "demo.png").write_bytes(b"picture")
        save_results(folder, {"seed": seed})
        return seed

    return write


def seed_of(folder):
    """The seed of a run whose files belong together."""
    run = load_run(folder)
    (q,), (expected,) = run.layers.values(), layers(run.results["seed"]).values()
    assert all(map(np.array_equal, q.codes, expected.codes))
    assert names(folder) == {"results.json", "compressed.npz", "demo.png"}
    return run.results["seed"]


def test_each_run_has_a_folder_of_its_own(tmp_path):
    for n in (1, 2, 3):
        folder, seed = write_run(tmp_path / "out", fill(n))
        assert folder == tmp_path / "out" / f"run-{n}"
        assert seed == seed_of(folder) == n
    assert names(tmp_path / "out") == {"run-1", "run-2", "run-3"}
    assert set(load_run(folder).results["files"]) == {"compressed.npz", "demo.png"}
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_numbers_go_on_from_the_highest_and_pass_what_is_no_run(tmp_path):
    for name in ("run-x", "run-07", "run-", "run-1 "):
        (tmp_path / name).mkdir()
    (tmp_path / "run-4").write_text("a file")
    assert write_run(tmp_path, fill(1))[0].name == "run-5"
    (tmp_path / "run-6").symlink_to(tmp_path / "nowhere")
    assert write_run(tmp_path, fill(2))[0].name == "run-7"


def test_a_folder_that_somebody_else_makes_at_the_same_moment_is_passed(tmp_path, monkeypatch):
    rename, taken = Path.rename, []

    def slow(self, target):
        if len(taken) < 3:
            target.mkdir()
            taken.append(target)
            (target / "theirs").write_text("") if len(taken) < 3 else target.rmdir()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    assert write_run(tmp_path, fill(1))[0].name == "run-3"
    assert names(tmp_path / "run-2") == {"theirs"}


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("step", ["save_results", "write_atomically", "_sync", "_renamed"])
def test_a_failing_run_leaves_the_others_and_nothing_else(tmp_path, monkeypatch, problem, step):
    write_run(tmp_path, fill(1))

    def broken(*_):
        raise problem

    monkeypatch.setattr(files, step, broken)
    monkeypatch.setattr(THIS, "save_results", files.save_results)
    with pytest.raises(problem):
        write_run(tmp_path, fill(2))
    monkeypatch.undo()
    assert names(tmp_path) == {"run-1"}
    assert seed_of(tmp_path / "run-1") == 1


def test_files_of_two_runs_do_not_belong_together(tmp_path):
    one, two = (write_run(tmp_path, fill(n))[0] for n in (1, 2))
    (one / "compressed.npz").write_bytes((two / "compressed.npz").read_bytes())
    with pytest.raises(
        FileError, match=r"compressed\.npz: is not of the same run as results\.json"
    ):
        load_run(one)
    (one / "compressed.npz").unlink()
    with pytest.raises(FileNotFoundError):
        load_run(one)


def test_every_change_of_results_is_found_or_harmless(tmp_path):
    folder, _ = write_run(tmp_path, fill(1))
    path = folder / "results.json"
    raw, known = path.read_bytes(), load_run(folder).results
    for at in range(len(raw)):
        for changed in (raw[:at], raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]):
            path.write_bytes(changed)
            assert after_a_change(folder, path) in (None, known)


def after_a_change(folder, path):
    """What results.json says now; None if it is refused by an error that names it."""
    try:
        return load_run(folder).results
    except FileError as refusal:
        if not str(refusal).startswith(str(path)):
            raise
        return None


TESTS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_files import fill, names, seed_of, write_run

out = Path({out!r})
write_run(out, fill(1))
watched = {{"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}}
left = None

def kill(event, arguments):
    global left
    if left is None or event not in watched:
        return
    if left == 0:
        os._exit(9)
    left -= 1

sys.addaudithook(kill)
killed, ends = 0, False
while not ends:
    child = os.fork()
    if child == 0:
        left = killed
        write_run(out, fill(2))
        os._exit(0)
    ends = os.waitpid(child, 0)[1] == 0
    killed += not ends
    runs = sorted(name for name in names(out) if name.startswith("run-"))
    assert [seed_of(out / name) for name in runs] == [1] + [2] * (len(runs) - 1), runs
print(killed, len(runs))
"""


def test_killed_at_any_step_the_runs_are_whole(tmp_path):
    code = KILLED.format(tests=TESTS, out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed, runs = map(int, done.stdout.split())
    assert killed > 20  # every opening, renaming, making and removing of a file was a last one
    assert runs >= 3  # the first, the one that ended, and those killed after they were whole


def test_two_processes_killed_at_random_leave_whole_runs(tmp_path):
    out = tmp_path / "out"
    code = (
        f"import sys; sys.path[:0] = {TESTS!r}\n"
        "from test_files import fill, write_run\nfrom pathlib import Path\n"
        "print('ready', flush=True)\n"
        f"while True: write_run(Path({str(out)!r}), fill(int(sys.argv[1])))"
    )
    wait = np.random.default_rng()
    for _ in range(3):
        pair = [
            subprocess.Popen([sys.executable, "-c", code, seed], stdout=subprocess.PIPE)
            for seed in "12"
        ]
        for process in pair:
            with process:
                process.stdout.readline()
                time.sleep(wait.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    deadline = time.monotonic() + 60
    while not (out.exists() and any(name.startswith("run-") for name in names(out))):
        assert time.monotonic() < deadline
        write_run(out, fill(1))
    runs = [path for path in out.iterdir() if not path.name.startswith(".unfinished-")]
    assert {seed_of(path) for path in runs} <= {1, 2}
    assert len({path.name for path in runs}) == len(runs) >= 1


def test_the_error_is_named_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "files.rst").read_text()
    assert "``qcp_ref.app.files.FileError``" in page
    assert issubclass(FileError, ValueError)
    assert f"{files.LIMIT // 2**20} MiB" in page

"""What is shipped: the README's example and commands, one version, the wheel, a cheap import."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest

import qcp_ref

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MEGABYTE = 10**6


def loaded_by(code):
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_readme_example_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert any(line.startswith("assert ") for line in lines)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


def test_readme_commands_exist():
    commands = re.findall(r"^pip install '\.\[(\w+)\]' && (\S+)", README, re.MULTILINE)
    assert commands == [("demo", "qcp-ref"), ("test", "pytest")]
    assert {extra for extra, _ in commands} <= PROJECT["optional-dependencies"].keys()
    assert PROJECT["scripts"].keys() == {"qcp-ref"}
    assert any(re.match(r"pytest\b", need) for need in PROJECT["optional-dependencies"]["test"])


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert qcp_ref.__version__ == version
    assert metadata.version("qcp-ref") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()


def test_definition_changes_have_their_own_heading():
    assert "\n### Definition changes\n" in (ROOT / "CHANGELOG.md").read_text()


def test_types_are_shipped():
    assert resources.files("qcp_ref").joinpath("py.typed").is_file()


def test_the_import_is_cheap():
    loaded = loaded_by("import qcp_ref")
    assert "qcp_ref.tensors.tensor" in loaded
    heavy = {"scipy", "numba", "rich", "matplotlib", "torch", "threadpoolctl", "numpy.random"}
    assert not (heavy | {"concurrent.futures", "qcp_ref.app"}) & loaded


def need_back_end():
    try:
        version = int(metadata.version("setuptools").split(".")[0])
    except metadata.PackageNotFoundError:
        version = 0
    if version < 77:
        pytest.skip("building without a download needs setuptools 77 or newer (dev extra)")


def checkout():
    """All files that belong to the project, as git or the source archive lists them."""
    listed = ROOT / "qcp_ref.egg-info" / "SOURCES.txt"
    if not (ROOT / ".git").exists():
        if not listed.exists():
            pytest.skip("neither a checkout nor an unpacked source archive")
        names = listed.read_text(encoding="utf-8").split("\n")
    else:
        command = ["git", "ls-files", "-z"]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"git: {done.stderr}")
        names = done.stdout.split("\0")
    made = {"", "PKG-INFO", "setup.cfg"}
    return {name for name in names if name not in made and ".egg-info/" not in name}


def test_the_source_archive_holds_all_that_its_tests_need(tmp_path):
    need_back_end()
    source = tmp_path / "source"
    files = {name for name in checkout() if (ROOT / name).exists()}
    junk = {"docs/_build/x.html", "docs/_generated/x.rst", "docs/tutorials/01.ipynb"}
    junk |= {"tests/__pycache__/a.pyc", "qcp_ref/a.nbi", "docs/.ipynb_checkpoints/a.rst"}
    for name in files | junk:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name in junk:
            (source / name).write_text("made by a run")
        else:
            shutil.copy(ROOT / name, source / name)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {member.name.partition("/")[2] for member in packed if member.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == files
    assert {"tests/conftest.py", "docs/reference/cli.rst", ".ci/run"} <= names
    assert archive.stat().st_size < 6 * MEGABYTE


def test_the_pythons_that_are_claimed_are_those_that_are_run():
    prefix = "Programming Language :: Python :: 3."
    claimed = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    (run,) = re.findall(r"^pythons=\(([^)]*)\)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert [f"3.{minor}" for minor in claimed] == run.split()
    assert PROJECT["requires-python"] == f">={run.split()[0]}"


def test_the_wheel_holds_what_it_should(tmp_path):
    need_back_end()
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "qcp_ref_pytest.py"):
        shutil.copy(ROOT / name, source)
    package, ignored = source / "qcp_ref", shutil.ignore_patterns("__pycache__", ".*", "*.toml")
    shutil.copytree(ROOT / "qcp_ref", package, ignore=ignored)
    shutil.copytree(ROOT / "notebooks", source / "notebooks", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(wheels), str(source)], check=True)
    (wheel,) = wheels.iterdir()
    assert wheel.stat().st_size < 6 * MEGABYTE
    shipped = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in package.rglob("*") if path.is_file())
    expected = {path.relative_to(source).as_posix() for path in files}
    assert "qcp_ref/app/cli.py" in expected
    assert any(name.startswith("qcp_ref/app/data/") for name in expected)
    assert expected <= shipped
    tutorials = {f"qcp_ref/notebooks/{file.name}" for file in (source / "notebooks").iterdir()}
    assert len(tutorials) == 10 and tutorials <= shipped
    top = {name.split("/")[0] for name in shipped}
    about = f"qcp_ref-{qcp_ref.__version__}.dist-info"
    assert top == {"qcp_ref", "qcp_ref_pytest.py", about}
    ((_, module),) = PROJECT["entry-points"]["pytest11"].items()
    assert f"{module}.py" in shipped

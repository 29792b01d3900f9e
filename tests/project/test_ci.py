"""What is run in several places is the same everywhere: linters, Pythons, the published site."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
READ_THE_DOCS = (ROOT / ".readthedocs.yaml").read_text(encoding="utf-8")


def linter(command):
    """Return the name of the tool that a command runs, with the subcommand where there is one."""
    command = re.sub(r"^find .* -exec ", "", command)
    return re.match(r"(?:ruff|numpydoc) \w+|[\w-]+", command)[0]


def sections(text):
    """Return the commands of each section of the script, by its title."""
    _, *found = re.split(r'^section "(.*)"\n', text, flags=re.MULTILINE)
    return dict(zip(found[::2], (body.split("\n") for body in found[1::2]), strict=True))


def test_commits_pass_the_linters_that_ci_runs():
    titles = ["ruff", "mypy, interrogate, numpydoc", "codespell, sphinx-lint, nbstripout"]
    listed = [line for title in titles for line in sections(CI)[title] if line]
    hooked = re.findall(r"^ +entry: (.*)", HOOKS, re.MULTILINE)
    assert len(listed) > 5
    assert [linter(command) for command in listed] == [linter(command) for command in hooked]


def test_the_published_site_is_built_like_the_one_of_ci():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"extra_requirements: \[(.*)\]", READ_THE_DOCS)
    assert set(extras.split(", ")) <= project["optional-dependencies"].keys()
    assert "fail_on_warning: true" in READ_THE_DOCS
    (python,) = re.findall(r'python: "(3\.\d+)"', READ_THE_DOCS)
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    (configuration,) = re.findall(r"configuration: (.*)", READ_THE_DOCS)
    assert (ROOT / configuration).is_file()

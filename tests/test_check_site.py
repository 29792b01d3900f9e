"""The checker of the built site finds what it is there for; .ci/run builds the site."""

import importlib.util
import zlib
from pathlib import Path

import pytest

import qcp_ref

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_site.py"
spec = importlib.util.spec_from_file_location("check_site", SCRIPT)
check_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_site)

LOCAL = """
<link rel="stylesheet" href="_static/a.css"><script src="../_static/b.js"></script>
<link rel="canonical" href="https://example.org/"><a href="https://example.org/">elsewhere</a>
<img src="data:image/png;base64,AAAA"><style>p { background: url("c.png") }</style>
<p>url(https://example.org) in the text, and //comments too</p>
"""
REMOTE = [
    '<script src="https://example.org/a.js"></script>',
    '<script src="//example.org/a.js"></script>',
    '<link rel="stylesheet" href="http://example.org/a.css">',
    '<link rel="icon" href="https://example.org/a.png"/>',
    '<img src="https://example.org/a.png">',
    '<img srcset="https://example.org/a.png 2x">',
    '<p style="background: url(https://example.org/a.png)">',
    '<style>@import "https://example.org/a.css";</style>',
    "<style>p { background: url('//example.org/a.png') }</style>",
]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text(LOCAL)
    (tmp_path / "a.css").write_text("p { background: url(b.png) }\n")
    return tmp_path


def test_local_assets_and_links_pass(site):
    assert check_site.remote_assets(site) == []


@pytest.mark.parametrize("text", REMOTE)
def test_remote_assets_are_found(site, text):
    (site / "page.html").write_text(LOCAL + text)
    (complaint,) = check_site.remote_assets(site)
    assert complaint.startswith("page.html: loads ")


def test_remote_assets_in_style_sheets_are_found(site):
    (site / "b.css").write_text("@font-face { src: url(https://example.org/a.woff) }\n")
    (complaint,) = check_site.remote_assets(site)
    assert complaint.startswith("b.css: loads ")


def test_maths_is_recognised():
    assert check_site.read_page('<div class="math notranslate nohighlight">x</div>').maths
    assert not check_site.read_page('<div class="mathematics">x</div>').maths


def test_public_names_without_documentation_are_found(site):
    homes = [f"{getattr(qcp_ref, name).__module__}.{name}" for name in qcp_ref.__all__]
    lines = "".join(f"{home} py:function 1 api/x.html#$ -\n" for home in homes[1:])
    header = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
    (site / "objects.inv").write_bytes(header + zlib.compress(lines.encode()))
    assert check_site.undocumented(site) == [f"{homes[0]}: public, but not documented"]

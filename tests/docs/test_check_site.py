"""The checker of the built site finds what it is there for; .ci/run builds the site."""

import importlib.util
import shutil
import zlib
from pathlib import Path

import pytest

import qcp_ref

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_site.py"
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


PAGE = """<nav><a href="index.html">outside of the article</a></nav>
<article><h1 id="top">Title<a href="#top">#</a></h1>{}</article>"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('<p>Words, <a href="a%20b.html#place">there</a>, <a href="#top">up</a></p>', None),
        (
            '<p>Words, <a href="https://example.org/x#y">out</a> <a href="mailto:a@b">b</a></p>',
            None,
        ),
        (
            '<p>Words <a href="b.txt#L3">in a text</a> <img src="data:image/png;base64,AA"></p>',
            None,
        ),
        ("<p> </p>", "page.html: an empty page"),
        ('<p>Words <a href="c.html">c</a></p>', "page.html: c.html leads nowhere"),
        (
            '<p>Words <a href="a%20b.html#x">c</a></p>',
            "a%20b.html#x leads to no place on that page",
        ),
        ('<p>Words <a href="#x">c</a></p>', "page.html: #x leads to no place on that page"),
        ('<p>Words <a href="../x.html">c</a></p>', "page.html: ../x.html leads nowhere"),
        ('<p>Words <img src="c.png"></p>', "page.html: c.png leads nowhere"),
    ],
)
def test_broken_links_and_empty_pages_are_found(tmp_path, text, complaint):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "x.html").write_text("outside of the site")
    (site / "b.txt").write_text("text")
    other = PAGE.format('<p id="place">Words</p>')
    for name in ("a b.html", "index.html"):
        (site / name).write_text(other)
    (site / "search.html").write_text(PAGE.format(""))
    (site / "page.html").write_text(PAGE.format(text))
    found = check_site.broken_links(site)
    assert len(found) == (complaint is not None)
    assert not found or complaint in found[0]


MATHS = """<!doctype html><div class="math">x</div><script>
window.MathJax = {{startup: {{promise: new Promise(done => setTimeout(() => {{
  document.body.innerHTML = '{}'; done();
}}, 50))}}}};
</script>"""


def test_one_browser_looks_at_all_pages(tmp_path):
    if not any(map(shutil.which, check_site.BROWSERS)):
        pytest.skip("no browser")
    node = '<mjx-container><g data-mjx-error="no such macro"></g></mjx-container>'
    contents = {"good": "<mjx-container></mjx-container>", "unrendered": "<p>x</p>", "wrong": node}
    for name, content in contents.items():
        (tmp_path / f"{name}.html").write_text(MATHS.format(content))
    (tmp_path / "plain.html").write_text("<p>no maths, and so no MathJax</p>")
    (tmp_path / "raw.html").write_text('<div class="math">no MathJax</div>')
    complaints = check_site.broken_maths(tmp_path)
    assert complaints[1:] == [
        "unrendered.html: no equation was rendered",
        "wrong.html: no such macro",
    ]
    assert complaints[0].startswith("raw.html: no equation was rendered: TypeError")


def test_a_browser_that_says_nothing_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text(MATHS.format("x"))
    monkeypatch.setattr(check_site, "BROWSERS", ["true"])
    monkeypatch.setattr(check_site, "PATIENCE", 0.1)
    assert check_site.broken_maths(tmp_path) == ["a.html: no answer from the browser in 0.1 s"]
    monkeypatch.setattr(check_site, "BROWSERS", ["no-such-browser"])
    assert check_site.broken_maths(tmp_path) == ["--browser: none of no-such-browser is installed"]


def test_public_names_without_documentation_are_found(site):
    homes = [f"{getattr(qcp_ref, name).__module__}.{name}" for name in qcp_ref.__all__]
    lines = "".join(f"{home} py:function 1 api/x.html#$ -\n" for home in homes[1:])
    header = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
    (site / "objects.inv").write_bytes(header + zlib.compress(lines.encode()))
    assert check_site.undocumented(site) == [f"{homes[0]}: public, but not documented"]

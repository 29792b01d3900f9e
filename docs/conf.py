"""Sphinx configuration: everything the site needs is local, and every warning is an error.

Written before each build, ignored by git: copies of the notebooks (docs/tutorials/*.ipynb), the
top-level Markdown pages as reStructuredText, tables and help texts taken from the package, the
figures and the inventories of other projects (docs/_generated/). Written after it: MathJax.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import zlib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbsphinx
import pypandoc
from sphinx.util import logging

import qcp_ref

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
import code_map  # noqa: E402 - what stands in docs/_ext builds pages
import figures  # noqa: E402
import laws  # noqa: E402
import measured  # noqa: E402
import parts  # noqa: E402
import speed  # noqa: E402

ROOT = HERE.parent
GENERATED = HERE / "_generated"
logger = logging.getLogger("qcp_ref")

# nbsphinx calls pandoc by name; the wheel brings one along.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(pypandoc.get_pandoc_path()).parent), os.environ["PATH"]]
)

project = "qcp_ref"
author = "the qcp_ref authors"
copyright = "2026, the qcp_ref authors"
release = metadata.version("qcp-ref")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.githubpages",  # the file that keeps folders with an underscore
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "nbsphinx",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_generated", "**.ipynb_checkpoints"]
nitpicky = True
numfig = True
math_numfig = True
math_eqref_format = "({number})"

html_theme = "furo"
html_title = f"qcp_ref {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
copybutton_prompt_text = ">>> "

# One file that needs no fonts and no network. Without noundefined and noerrors a wrong macro
# becomes a node that scripts/check_site.py can find, instead of red text.
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {"tex": {"packages": {"[-]": ["noundefined", "noerrors"]}}}

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
# Types in docstrings become links: numpydoc knows Python's and NumPy's, these are our own.
numpydoc_xref_aliases = {
    name: f"{getattr(qcp_ref, name).__module__}.{name}"
    for name in qcp_ref.__all__
    if isinstance(getattr(qcp_ref, name), type)
}

nbsphinx_requirejs_path = ""  # the default is a script on somebody else's server
nbsphinx_execute = "always"
nbsphinx_timeout = 120
nbsphinx_execute_arguments = ["--InlineBackend.figure_formats={'svg'}"]
nbsphinx_epilog = """
----

This page is the notebook ``notebooks/{{ env.docname.split('/')[-1] }}.ipynb``.
"""

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# What docstrings link to in other projects' documentation: role, and page with $ for the name.
BUILTIN = "library/functions.html#$"
TYPE = "library/stdtypes.html#$"
TERM = "glossary.html#term-$"
INVENTORIES = {
    "python": (
        "https://docs.python.org/3/",
        {
            **dict.fromkeys(["float", "int"], ("py:class", BUILTIN)),
            **dict.fromkeys(["dict", "list", "str", "tuple"], ("py:class", TYPE)),
            **dict.fromkeys(["False", "None", "True"], ("py:data", "library/constants.html#$")),
            **dict.fromkeys(["generator", "iterable", "sequence"], ("std:term", TERM)),
            "callable": ("py:function", BUILTIN),
            "bltin-boolean-values": ("std:label", "library/stdtypes.html#boolean-type-bool"),
            "fractions.Fraction": ("py:class", "library/fractions.html#$"),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.ndarray": ("py:class", "reference/generated/numpy.ndarray.html#$"),
            "numpy.random.Generator": ("py:class", "reference/random/generator.html#$"),
            "array_like": ("std:term", TERM),
        },
    ),
}


def write_inventories():
    """Write the tables above as inventories, so that a build fetches nothing."""
    mapping = {}
    for name, (url, entries) in INVENTORIES.items():
        header = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
        header += "# The remainder of this file is compressed using zlib.\n"
        lines = "".join(f"{key} {role} 1 {page} -\n" for key, (role, page) in entries.items())
        file = GENERATED / f"{name}.inv"
        write(file, header.encode() + zlib.compress(lines.encode(), 9))
        mapping[name] = (url, str(file.relative_to(HERE)))
    return mapping


def write(path, data):
    """Write only what differs: an unchanged notebook is not executed again."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def copy_notebooks(app):
    """Bring notebooks/ under docs/; links into docs/ are right for readers of both places."""
    wanted = {file.name: file for file in (ROOT / "notebooks").glob("*.ipynb")}
    for name, file in wanted.items():
        text = file.read_text(encoding="utf-8").replace("](../docs/", "](../")
        write(HERE / "tutorials" / name, text.encode())
    for copy in (HERE / "tutorials").glob("*.ipynb"):
        if copy.name not in wanted:
            copy.unlink()


def convert_markdown(app):
    """Turn the top-level Markdown pages into the reStructuredText that docs/*.rst include."""
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        write(GENERATED / f"{name}.rst", nbsphinx.markdown2rst(text).encode())


def list_names(app, docname, source):
    """Fill the table on top of an API page from the module's own ``__all__``."""
    if docname.startswith("api/") and "|all|" in source[0]:
        module = docname.removeprefix("api/").replace("/", ".")
        names = importlib.import_module(f"qcp_ref.{module}").__all__
        source[0] = source[0].replace("|all|", "\n   ".join(names))


def describe_kit(app):
    """Write what the pages of the conformance kit include, from the kit's own tables."""
    from qcp_ref.conformance import spec
    from qcp_ref.conformance.cases import vectors
    from qcp_ref.conformance.faults import matrix

    levels = "".join(f"{name}\n   {says}\n" for name, says in spec.LEVELS.items())
    header = ("operation", "level", "arguments", "options", "results", "equation")
    rows = [".. list-table::\n   :header-rows: 1\n\n", "   * - " + "\n     - ".join(header) + "\n"]
    for name, op in spec.OPS.items():
        parts = [", ".join(part) or "-" for part in (op.arrays, op.options, op.results)]
        cells = [f"``{name}``", op.level, *parts, f":eq:`{op.equation}`"]
        rows.append("   * - " + "\n     - ".join(cells) + "\n")
    rows.append("\n**Choices**, the first option ours:\n\n")
    for name, scope in spec.SCOPES.items():
        ops = ", ".join(f"``{op}``" for op in scope.ops)
        options = ", ".join(scope.options)
        rows.append(f"``{name}``\n   {options}: {scope.governs}. In {ops}.\n")
    rows.append("\n**Capabilities**:\n\n")
    rows += [f"``{name}``\n   {says}\n" for name, says in spec.CAPABILITIES.items()]
    faults = matrix.Matrix(matrix.every_fault(), vectors.kills(), [], [], [], {})
    listed = "\n".join("   " + line for line in matrix.table(faults).splitlines())
    texts = {"levels": levels, "operations": "".join(rows)}
    texts["faults"] = f".. code-block:: text\n\n{listed}\n"
    for name, text in texts.items():
        write(GENERATED / f"{name}.rst", text.encode())


def show_help(app):
    """Write what the commands answer to --help, in the width of the page."""
    import qcp_ref_pytest
    from qcp_ref.app import cli
    from qcp_ref.conformance import __main__ as kit

    def answer(main, *arguments):
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
            main([*arguments, "--help"])
        return text.getvalue()

    os.environ["COLUMNS"] = "88"  # argparse asks for it
    texts = {
        "qcp-ref": answer(cli.main),
        "qcp-ref-demo": answer(cli.main, "demo"),
        "qcp-ref-notebooks": answer(cli.main, "notebooks"),
        "conformance": answer(kit.main),
    }
    parser = argparse.ArgumentParser(prog="pytest", add_help=False)
    options = parser.add_argument_group("options of this package")
    group = SimpleNamespace(addoption=options.add_argument)
    qcp_ref_pytest.pytest_addoption(SimpleNamespace(getgroup=lambda *_: group))
    texts["pytest"] = parser.format_help()
    del os.environ["COLUMNS"]
    for name, text in texts.items():
        write(GENERATED / f"help-{name}.txt", text.encode())


def map_code(app):
    """Write the tables of equations, code and tests."""
    from qcp_ref.conformance import spec

    operations = {name: op.equation for name, op in spec.OPS.items()}
    write(GENERATED / "code_map.rst", code_map.page(code_map.read(), operations).encode())


def describe_parts(app):
    """Write what each part says of itself, and how large the parts are; print the sizes."""
    for name in ("bounds", *parts.ORDER[1:], "loops", "conformance"):
        write(GENERATED / f"part-{name}.rst", f"{parts.sentence(ROOT, name)}\n".encode())
    rows = parts.table(parts.read(ROOT))
    write(GENERATED / "sizes.rst", f"{measured.grid(rows)}\n".encode())
    for first, *rest in rows:
        logger.info("%s%s", first.ljust(14), "".join(cell.rjust(8) for cell in rest))


def list_laws(app):
    """Write the tables of laws and the tests that hold them."""
    write(GENERATED / "laws.rst", laws.page(laws.read()).encode())


def results(name):
    """Return what one of the benchmarks has measured."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def describe_measured(app):
    """Write the tables of the pages on search, reproduction and speed."""
    write(GENERATED / "quality.rst", measured.quality(results("quality")).encode())
    runs, scales = measured.reproduction(results("reproduction"))
    write(GENERATED / "reproduction.rst", runs.encode())
    write(GENERATED / "scales.rst", scales.encode())
    write(GENERATED / "speed.rst", speed.pages(results("speed"), measured.grid).encode())
    picture = ROOT / "benchmarks" / "results" / "speed.png"
    write(GENERATED / "speed.png", picture.read_bytes())


def draw_figures(app):
    """Draw the figures of the theory pages."""
    figures.write(GENERATED / "figures")


def copy_mathjax(app, exception):
    """Put the one MathJax file, and its licence, beside the pages."""
    if exception is None and app.builder.format == "html":
        package = metadata.distribution("sphinx-mathjax-offline")
        (file,) = (f for f in package.files if f.name == "tex-svg-full.js")
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(package.locate_file(file), target)
        shutil.copy(HERE / "mathjax-license.txt", target / "LICENSE")


intersphinx_mapping = write_inventories()


def skip_field_numbers(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which the class's own text explains."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


def setup(app):
    app.connect("builder-inited", copy_notebooks)  # before Sphinx looks for documents
    app.connect("builder-inited", convert_markdown)
    app.connect("builder-inited", describe_kit)
    app.connect("builder-inited", describe_measured)
    app.connect("builder-inited", map_code)
    app.connect("builder-inited", list_laws)
    app.connect("builder-inited", describe_parts)
    app.connect("builder-inited", show_help)
    app.connect("builder-inited", draw_figures)
    app.connect("source-read", list_names)
    app.connect("autodoc-skip-member", skip_field_numbers)
    app.connect("build-finished", copy_mathjax)

"""Check the built site: nothing is loaded from elsewhere, public names are there, maths renders.

``python scripts/check_site.py docs/_build/html`` reads the pages; ``--browser`` also opens those
with maths in a headless Chromium. Exits with 1 after a list of complaints.
"""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

# Elements that load what an attribute names; a link (a) only points there.
LOADING = {
    **dict.fromkeys(["script", "iframe", "embed", "audio", "input"], ("src",)),
    **dict.fromkeys(["img", "source"], ("src", "srcset")),
    **dict.fromkeys(["image", "use"], ("href",)),
    "video": ("src", "poster"),
    "object": ("data",),
}
LINKS = {"stylesheet", "preload", "modulepreload", "icon", "manifest", "prefetch", "preconnect"}
REMOTE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
REMOTE_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//[^)'\"]*", re.IGNORECASE)
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


class Assets(HTMLParser):
    """Collect what one page loads from elsewhere, and whether it has maths."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []
        self.maths = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        values = {name: value or "" for name, value in attrs}
        urls = [values.get(name, "") for name in LOADING.get(tag, ())]
        if tag == "link" and LINKS & set(values.get("rel", "").split()):
            urls.append(values.get("href", ""))
        self.remote += [f"<{tag}> {url}" for url in urls if REMOTE.match(url)]
        self.remote += REMOTE_CSS.findall(values.get("style", ""))
        self.maths |= "math" in values.get("class", "").split()


def read_page(text: str) -> Assets:
    """Return what a page's source says about its assets."""
    page = Assets()
    page.feed(text)
    for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL):
        page.remote += REMOTE_CSS.findall(style)
    return page


def remote_assets(site: Path) -> list[str]:
    """Complain about every script, style sheet, image or font that is not local."""
    complaints = []
    for path in sorted(site.rglob("*.html")):
        page = read_page(path.read_text(encoding="utf-8"))
        complaints += [f"{path.relative_to(site)}: loads {asset}" for asset in page.remote]
    for path in sorted(site.rglob("*.css")):
        found = REMOTE_CSS.findall(path.read_text(encoding="utf-8"))
        complaints += [f"{path.relative_to(site)}: loads {asset}" for asset in found]
    return complaints


def documented(site: Path) -> set[str]:
    """Return the names in the site's own inventory."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}


def undocumented(site: Path) -> list[str]:
    """Complain about public names without an entry; autodoc omits some kinds without a word."""
    package = importlib.import_module("qcp_ref")
    names = documented(site)
    missing = []
    for name in package.__all__:
        home = getattr(package, name).__module__
        if f"{home}.{name}" not in names:
            missing.append(f"{home}.{name}: public, but not documented")
    return missing


def broken_maths(site: Path) -> list[str]:
    """Complain about pages whose equations a browser does not render."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return [f"--browser: none of {', '.join(BROWSERS)} is installed"]
    complaints = []
    for path in sorted(site.rglob("*.html")):
        if not read_page(path.read_text(encoding="utf-8")).maths:
            continue
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
            command += [f"--user-data-dir={profile}", "--virtual-time-budget=60000"]
            command += ["--dump-dom", path.resolve().as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        errors = sorted(set(re.findall(r'data-mjx-error="([^"]*)"', done.stdout)))
        if "<mjx-container" not in done.stdout:
            errors.append("no equation was rendered")
        complaints += [f"{path.relative_to(site)}: {error}" for error in errors]
    return complaints


def main() -> int:
    """Run the checks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="folder with the built pages")
    parser.add_argument("--browser", action="store_true", help="also render the maths in Chromium")
    arguments = parser.parse_args()
    complaints = remote_assets(arguments.site) + undocumented(arguments.site)
    if arguments.browser:
        complaints += broken_maths(arguments.site)
    for complaint in complaints:
        print(complaint)
    pages = len(list(arguments.site.rglob("*.html")))
    print(f"{pages} pages, {len(complaints)} complaints")
    return 1 if complaints or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

"""Check the built site: nothing is loaded from elsewhere, no link is broken, no page is empty.

Public names are there, and maths renders. ``python scripts/check_site.py docs/_build/html`` reads
the pages; ``--browser`` also opens those with maths in one headless Chromium, which gets them from
a server on this machine and reports what MathJax made of them. Exits with 1 after a list of
complaints.
"""

import argparse
import importlib
import json
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
WITHOUT_TEXT = {"search.html"}  # its text comes by script
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


# What the browser opens: it loads one page after the other and sends home what became of its maths.
DRIVER = """<!doctype html><meta charset="utf-8"><script>
const report = (page, errors) =>
  fetch("/", {method: "POST", body: JSON.stringify({page, errors})});
async function check(page) {
  const frame = document.createElement("iframe");
  frame.width = 1200; frame.height = 900;
  const loaded = new Promise(done => { frame.onload = done; });
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const maths = frame.contentWindow.MathJax;
  const errors = [];
  try {
    await maths.startup.promise;
    const inside = frame.contentDocument;
    if (!inside.querySelector("mjx-container")) errors.push("no equation was rendered");
    for (const node of inside.querySelectorAll("[data-mjx-error]"))
      errors.push(node.dataset.mjxError);
  } catch (problem) { errors.push("no equation was rendered: " + problem); }
  frame.remove();
  await report(page, errors);
}
window.onload = async () => { for (const page of PAGES) await check(page); };
</script><body></body>"""
PATIENCE = 60  # seconds for the browser to start, or for one page


class Assets(HTMLParser):
    """Collect what one page loads, where it leads to, and what it consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []
        self.maths = False
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.empty = True  # no text in the article but its title
        self.inside: list[str] = []  # the article, and the title in it, while they are open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        values = {name: value or "" for name, value in attrs}
        urls = [values.get(name, "") for name in LOADING.get(tag, ())]
        if tag == "link" and LINKS & set(values.get("rel", "").split()):
            urls.append(values.get("href", ""))
        self.remote += [f"<{tag}> {url}" for url in urls if REMOTE.match(url)]
        self.remote += REMOTE_CSS.findall(values.get("style", ""))
        self.maths |= "math" in values.get("class", "").split()
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values["href"]] if tag == "a" and values.get("href") else []
        self.links += [url for url in urls if url and "srcset" not in values]
        if tag == "article" or (tag == "h1" and self.inside):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leave the article, or its title."""
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        """Look at text."""
        if self.inside == ["article"] and data.strip():
            self.empty = False


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


def broken_links(site: Path) -> list[str]:
    """Complain about links to files and places of the site that are not there, and empty pages."""
    root = site.resolve()
    pages = {
        path.resolve(): read_page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    complaints = []
    for path, page in pages.items():
        name = path.relative_to(root)
        if page.empty and path.name not in WITHOUT_TEXT:
            complaints.append(f"{name}: an empty page")
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or not target.is_relative_to(root):
                complaints.append(f"{name}: {link} leads nowhere")
            elif parts.fragment and target in pages:
                place = unquote(parts.fragment)
                if place not in pages[target].ids:
                    complaints.append(f"{name}: {link} leads to no place on that page")
    return complaints


class Handler(SimpleHTTPRequestHandler):
    """Serve the site, the driver at ``/``, and pass on what is posted."""

    def __init__(self, *args: object, driver: str, reports: queue.Queue, **options: object) -> None:
        self.driver, self.reports = driver.encode(), reports
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        """Answer with the driver or with a file."""
        if self.path == "/":
            self._answer(self.driver)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        """Take a report."""
        self.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def broken_maths(site: Path) -> list[str]:
    """Complain about pages whose equations a browser does not render."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return [f"--browser: none of {', '.join(BROWSERS)} is installed"]
    pages = [
        path.relative_to(site).as_posix()
        for path in sorted(site.rglob("*.html"))
        if read_page(path.read_text(encoding="utf-8")).maths
    ]
    reports: queue.Queue = queue.Queue()
    driver = DRIVER.replace("PAGES", json.dumps(pages))
    handler = partial(Handler, directory=str(site), driver=driver, reports=reports)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    complaints = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-background-networking", f"--user-data-dir={profile}"]
        command += ["--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while pages:
                report = reports.get(timeout=PATIENCE)
                pages.remove(report["page"])
                complaints += [f"{report['page']}: {e}" for e in sorted(set(report["errors"]))]
        except queue.Empty:
            complaints.append(f"{pages[0]}: no answer from the browser in {PATIENCE} s")
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
            server.server_close()
    return complaints


def main() -> int:
    """Run the checks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="folder with the built pages")
    parser.add_argument("--browser", action="store_true", help="also render the maths in Chromium")
    arguments = parser.parse_args()
    complaints = remote_assets(arguments.site) + undocumented(arguments.site)
    complaints += broken_links(arguments.site)
    if arguments.browser:
        complaints += broken_maths(arguments.site)
    for complaint in complaints:
        print(complaint)
    pages = len(list(arguments.site.rglob("*.html")))
    print(f"{pages} pages, {len(complaints)} complaints")
    return 1 if complaints or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run the README's two commands and put their real output, and the demo's picture, in its place.

``python scripts/update_readme.py`` in an environment that has the demo and test extras.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "_static" / "demo.png"


def output(*command: str) -> str:
    """Run a command in the checkout; return what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def with_block(text: str, name: str, content: str) -> str:
    """Replace what stands between the two markers of a name."""
    block = f"<!-- {name} -->\n```text\n{content.strip()}\n```\n<!-- /{name} -->"
    changed, count = re.subn(
        rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"README.md: expected one pair of markers {name}, got {count}")
    return changed


def main() -> int:
    """Refresh README.md and the picture."""
    with tempfile.TemporaryDirectory() as folder:
        lines = output("qcp-ref", "demo", "--out", folder).splitlines()
        PICTURE.parent.mkdir(exist_ok=True)
        shutil.copy(Path(folder) / "demo.png", PICTURE)
    demo = "\n".join(line.rstrip() for line in lines).replace(folder, "qcp-ref-out")
    tests = output(sys.executable, "-m", "pytest", "-q", "-n", "2").splitlines()[-1]
    text = with_block(README.read_text(encoding="utf-8"), "demo-output", demo)
    README.write_text(with_block(text, "test-output", tests), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the vectors of the conformance kit, and the table of what they find.

Run it after changing a family of cases or the catalogue of faults: ``python
scripts/make_conformance.py``. A test checks that the stored files are what this script writes.
"""

from pathlib import Path

import qcp_ref.conformance
from qcp_ref.conformance.cases.vectors import write
from qcp_ref.conformance.dyadic import canonical
from qcp_ref.conformance.faults.matrix import gates, matrix, smoke

FOLDER = Path(qcp_ref.conformance.__file__).parent / "data" / "v0"

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    write(FOLDER)
    found = matrix()
    stored = {"kills": found.kills, "needs": found.needs, "smoke": smoke(found.kills)}
    (FOLDER / "kills.json").write_text(canonical(stored) + "\n", encoding="ascii")
    print(*gates(found), sep="\n")

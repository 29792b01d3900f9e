"""Name the catalogued faults that fail most nearly the same cases as a report."""

import json
import sys
from pathlib import Path

from qcp_ref.conformance.cases.vectors import kills
from qcp_ref.conformance.faults.matrix import every_fault


def main(report):
    """Print, for each operation that fails, the faults that are most alike."""
    cases = json.loads(Path(report).read_text("utf-8"))["cases"]
    asked = {case["id"] for case in cases if case["outcome"] in ("pass", "suspect", "fail")}
    failed = {case["id"] for case in cases if case["outcome"] == "fail"}
    failed &= set().union(*kills().values())  # the faults were not tried on recipes
    for op in sorted({case["op"] for case in cases if case["outcome"] == "fail"}):
        ours = {case for case in failed if case.split(".")[0] == op}
        found = []
        for fault in every_fault():
            theirs = asked.intersection(kills()[fault.id]) if fault.op == op else set()
            if theirs & ours:
                found.append((len(theirs & ours) / len(theirs | ours), fault))
        found.sort(key=lambda pair: -pair[0])
        for alike, fault in found:
            if alike < found[:3][-1][0]:  # three, and those that are as much alike as the third
                break
            print(f"{op}: {alike:4.0%} alike  {fault.id:5} {fault.title}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Which case kills which fault? The strength of the suite, measured.

Every mutant of the catalogue is run through all cases of its operation in this process. The gates:
each mutant is killed by two cases, so that it is still found if one of them is expected to fail;
any two mutants of an operation are told apart by some case, so that a failure can be named; no
correct variant is accused; and a case that kills nothing carries a flag that says so. What was found
is stored with the vectors: the report of every run says how many mutants the cases that passed
would have killed.

Checked by tests/conformance/faults/test_matrix.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from qcp_ref.conformance.adapter import MISCONDUCT, REPEAT, Adapter, execute
from qcp_ref.conformance.cases.recipes import expand
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.faults import careless, runs, solvers
from qcp_ref.conformance.faults.catalogue import FAULTS, Fault
from qcp_ref.conformance.faults.controls import CONTROLS, Control
from qcp_ref.conformance.judging.judge import expectation, judge

__all__ = ["Matrix", "attempt", "every_fault", "gates", "matrix", "smoke", "table"]

Case = Mapping[str, Any]
Trial = tuple[str, dict[str, Any]]
_SECOND = "X03"  # faults that a second call shows
_SANITY = "Sanity"  # the flag of a case that is there although it kills nothing


class Matrix(NamedTuple):
    """What the suite can do.

    The faults; for each of them the cases that kill it; pairs that no case tells apart; correct
    variants that were accused; cases that kill nothing and do not carry the flag that says so; the
    check of conduct without which a fault is not found.
    """

    faults: Sequence[Fault]
    kills: dict[str, list[str]]
    twins: list[tuple[str, str]]
    alarms: list[str]
    idle: list[str]
    needs: dict[str, str]


def attempt(function: Any, case: Case, *, repeat: int = REPEAT, **options: Any) -> Trial:
    """Run one case on one function.

    Parameters
    ----------
    function : callable
        An implementation of the case's operation.
    case : mapping
        The case.
    repeat : int
        How often it is called.
    **options
        Of ``qcp_ref.conformance.adapter.Adapter``.

    Returns
    -------
    word : str
        What went wrong, '' if nothing did.
    reply : dict
        As ``qcp_ref.conformance.adapter.execute`` returns it; empty if the case needs float64
        and the adapter does not have it.
    """
    adapter = Adapter("one", **options)
    adapter.ops[case["op"]], case = function, expand(case)
    if "float64" in case["needs"] and adapter.arithmetic.real != "f64":
        return "", {}
    expected = expectation(case, adapter.choices)
    reply = execute(adapter, {**case, "repeat": repeat})
    if "unsupported" in reply:
        return "", {}
    if "out" not in reply:
        refused = reply["word"] == "raises" and expected.get("kind") == "reject"
        return ("" if refused else str(reply["word"])), reply
    found = judge(case, reply["out"], adapter.hello())
    return (found.word if found.outcome == "fail" else ""), reply


def every_fault() -> tuple[Fault, ...]:
    """Return the whole catalogue."""
    return (*FAULTS, *solvers.FAULTS, *runs.FAULTS, *careless.FAULTS)


def matrix(
    cases: Sequence[Case] | None = None,
    faults: Sequence[Fault] | None = None,
    controls: Sequence[Control] | None = None,
) -> Matrix:
    """Run faults and correct variants through the cases of their operations, by default all."""
    cases = load() if cases is None else cases
    faults = every_fault() if faults is None else faults
    controls = (*CONTROLS, *solvers.CONTROLS, *runs.CONTROLS) if controls is None else controls
    kills, twins, alarms = dict[str, list[str]](), list[tuple[str, str]](), list[str]()
    needs = dict[str, str]()
    for op in dict.fromkeys(case["op"] for case in cases):
        own = [case for case in cases if case["op"] == op]
        wrong = [fault for fault in faults if fault.op == op]
        tried = [_tried(fault, own) for fault in wrong]
        for fault, trials in zip(wrong, tried, strict=True):
            kills[fault.id] = [c["id"] for c, (word, _) in zip(own, trials, strict=True) if word]
            plain = zip(own, trials, strict=True)
            words = {word for c, (word, _) in plain if word and "layout" not in c}
            if words and words <= MISCONDUCT.keys():
                needs[fault.id] = MISCONDUCT[words.pop()]
        for (one, x), (two, y) in combinations(zip(wrong, tried, strict=True), 2):
            arith = min(one.arith, two.arith)  # f32 before f64
            if not any(_differ(*trio, arith) for trio in zip(own, x, y, strict=True)):
                twins.append((one.id, two.id))
        for control in controls:
            accused = [
                case["id"]
                for case in own
                if control.op == op and attempt(control.function, case, **control.options)[0]
            ]
            alarms += [f"{control.name}: {name}" for name in accused]
    useful = {name for by in kills.values() for name in by}
    idle = [c["id"] for c in cases if c["id"] not in useful and _SANITY not in c["flags"]]
    return Matrix(faults, kills, twins, alarms, idle, needs)


def _tried(fault: Fault, cases: Sequence[Case]) -> list[Trial]:
    """Run a fault through cases, once in each if that is enough to see it."""
    repeat = REPEAT if fault.id.startswith(_SECOND) else 1
    return [attempt(fault.function, c, repeat=repeat, arith=fault.arith) for c in cases]


def _differ(case: Case, one: Trial, two: Trial, arith: str) -> bool:
    """Whether a case tells two implementations apart, by more than rounding can explain."""
    if one == two or not one[1] or not two[1]:
        return False
    if one[0] != two[0] or "out" not in one[1]:
        return one[0] != two[0]
    info = Adapter("any", arith=arith).hello()
    expected = expectation(case, info["choices"])
    allowed = {name: _again(y, expected.get(name, {})) for name, y in one[1]["out"].items()}
    out = {name: _retyped(y, arith) for name, y in two[1]["out"].items()}
    again = {"op": case["op"], "in": case["in"], "out": allowed}
    return judge(again, out, info).outcome == "fail"


def _again(y: Any, part: Mapping[str, Any]) -> dict[str, Any]:
    """Expect a result again, within the bound of a case that has one."""
    if isinstance(y, list):
        parts = part.get("parts", [{}] * len(y))
        return {"kind": "list", "parts": [_again(*pair) for pair in zip(y, parts, strict=True)]}
    y = _retyped(y, "real")
    if part.get("kind") == "bound":
        return {**part, **y}
    if part or any(isinstance(m, str) for m in y["m"]):
        return {"kind": "exact", **y}
    gauge = {**y, "m": [abs(m) for m in y["m"]]}  # a certificate: two roundings' worth is the same
    return {"kind": "bound", **y, "g": gauge, "n": 64}


def _retyped(y: Any, real: str) -> Any:
    if isinstance(y, list):
        return [_retyped(part, real) for part in y]
    return {**y, "t": real} if y["t"][0] == "f" else y


def gates(found: Matrix) -> list[str]:
    """Return a complaint for each gate that is not passed."""
    weak = [
        f"{f.id}: killed by {len(by)} cases, expected 2" for f, by in _rows(found) if len(by) < 2
    ]
    return [
        *weak,
        *(f"{one}, {two}: no case tells them apart" for one, two in found.twins),
        *(f"{alarm}: a correct variant is accused" for alarm in found.alarms),
        *(f"{name}: kills nothing" for name in found.idle),
    ]


def _rows(found: Matrix) -> Iterator[tuple[Fault, list[str]]]:
    return ((fault, found.kills.get(fault.id, [])) for fault in found.faults)


def smoke(kills: Mapping[str, Iterable[str]], count: int = 26) -> list[str]:
    """Choose a few cases that together kill as many faults as possible, the best one first."""
    left, chosen = [set(by) for by in kills.values() if by], list[str]()
    while left and len(chosen) < count:
        votes = sorted(set().union(*left))
        chosen.append(max(votes, key=lambda name: sum(name in by for by in left)))
        left = [by for by in left if chosen[-1] not in by]
    return chosen


def table(found: Matrix) -> str:
    """Write the matrix as plain text, one line per fault."""
    lines = []
    for fault, by in _rows(found):
        first = ", ".join(name.removeprefix(f"{fault.op}.") for name in by[:3])
        more = f" and {len(by) - 3} more" if len(by) > 3 else ""
        lines.append(f"{fault.id:<5} {fault.op:<19} {fault.title:<49} {len(by):>3}  {first}{more}")
    return "\n".join(lines)

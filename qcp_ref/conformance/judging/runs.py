r"""Is a whole run right? From a given start, it is replayed step by step; else little can be asked.

From a given start a run returns every iterate, and each update is judged as a single one would be,
from the implementation's own numbers before it: so nothing adds up, and the step that is wrong is
named :eq:`conformance-replay`. What is returned in the end has to be the best sweep.

A run that makes its own start is asked for an honest error and, where the answer is known, for that
answer: a tensor that one sweep of least squares fits exactly :eq:`conformance-one-sweep`, and one
component on a grid, which is rounding :eq:`conformance-one-component`. How good other runs are is
reported and not judged.

Checked by tests/conformance/judging/test_runs.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from operator import mul
from typing import Any, NamedTuple

from qcp_ref import loops
from qcp_ref.conformance.dyadic import flat_numbers
from qcp_ref.conformance.judging.checks import (
    FLOATS,
    INTEGERS,
    Case,
    Check,
    Info,
    Matrix,
    declared,
    each,
    error_steps,
    given_of,
    gradient_check,
    growth,
    norm,
    normal_growth,
    read_result,
    read_results,
    refuse,
    refuse_outside,
    root,
    square_of,
    verdict,
)
from qcp_ref.conformance.judging.steps import Sizes, Step, dual_sign, step_checks
from qcp_ref.conformance.judging.verdict import Judgement

__all__ = ["RUNS"]


# --- errors ---------------------------------------------------------------------------------------


def _noise(X: Any, factors: Sequence[Matrix], info: Info) -> Fraction:
    """Bound the error of a computed squared error."""
    # eta = 2 gamma_n sum (|X| + |Y|_abs)^2, |Y|_abs made of absolute values of the factors
    shape, rank = loops.shape_of(X), len(factors[0][0])
    sizes = loops.reconstruct([each(abs, A) for A in factors])
    size = sum((abs(loops.at(X, i)) + loops.at(sizes, i)) ** 2 for i in loops.indices(shape))
    steps = error_steps(shape, rank) + 2 * sum(shape) + 12 * len(shape)
    return 2 * growth(steps, info) * Fraction(size)


def _honest(X: Any, error: Fraction, left: Fraction, noise: Fraction) -> Check:
    """Check that a relative error is that of the factors, which leave this squared error."""
    gap = abs(error * abs(error) * square_of(X) - left)
    return Check("error: not that of the factors", gap, noise)


def _run(X: Any, factors: Sequence[Matrix], error: Fraction, info: Info) -> list[Check]:
    """Check that the error is the true one and not above that of zero."""
    # |eps^2 ||X||^2 - ||X - Y||^2| <= eta and ||X - Y||^2 <= ||X||^2 + eta  :eq:`conformance-run`
    left, noise = loops.squared_error(X, factors), _noise(X, factors, info)
    more = max(left - square_of(X), Fraction(0))
    return [
        _honest(X, error, left, noise),
        Check("error: above that of zero", more, noise),
    ]


def _quality(X: Any, factors: Sequence[Matrix]) -> str:
    square = square_of(X)
    left = loops.squared_error(X, factors) / square if square else Fraction(0)
    return f"relative error {float(root(left)):.4f}"


# --- runs that make their start -------------------------------------------------------------------


def _cp_als(case: Case, out: Any, info: Info) -> Judgement:
    """Check the error; that some factor is a minimiser; an exact fit where one sweep is enough."""
    X, rank = given_of(case)["X"], case["options"]["rank"]
    shape = loops.shape_of(X)
    shapes = [(side, rank) for side in shape]
    factors = read_results("factors", out["factors"], shapes, [declared(info).real])
    checks = _run(X, factors, read_result("error", out["error"], (), FLOATS), info)
    balancing = growth(2 * sum(shape) + 12 * len(shape), info)
    found = [gradient_check(X, factors, n, factors[n], info) for n in range(len(shape))]
    room = [1 + balancing / normal_growth(factors, n, info) for n in range(len(shape))]
    found = [c._replace(bound=c.bound * r, usual=None) for c, r in zip(found, room, strict=True)]
    last = min(found, key=lambda check: check.margin)
    checks.append(last._replace(what="factors: none is a minimiser, the others fixed"))
    if case["out"].get("exact"):
        left, unit = loops.squared_error(X, factors), max(declared(info)[:3])
        says = "error: one sweep fits this tensor exactly"
        checks.append(Check(says, left, root(unit) * square_of(X)))
    return verdict(checks, _quality(X, factors))


def _on_grid(out: Any, shapes: Sequence[Any], case: Case, name: str = "scales") -> list[Matrix]:
    """Read codes and scales, and return the factors that they stand for."""
    codes = read_results("codes", out["codes"], shapes, INTEGERS)
    if isinstance(out[name], list):
        scales = read_results(name, out[name], [()] * len(codes), FLOATS)
    else:
        scales = read_result(name, out[name], (len(codes),), FLOATS)
    refuse(min(scales) <= 0, "wrong-value", "scales: expected numbers above 0")
    refuse_outside(flat_numbers(codes), case)
    return [each(lambda k, s=s: k * s, part) for part, s in zip(codes, scales, strict=True)]


def _ao_admm(case: Case, out: Any, info: Info) -> Judgement:
    """Check the error; of one component, that it is not above that of rounding."""
    X, options = given_of(case)["X"], case["options"]
    shapes = [(side, options["rank"]) for side in loops.shape_of(X)]
    factors = _on_grid(out, shapes, case)
    checks = _run(X, factors, read_result("error", out["error"], (), FLOATS), info)
    most = case["out"].get("most")
    if most is not None:
        more = max(loops.squared_error(X, factors) - Fraction(most), Fraction(0))
        says = "error: above that of rounding one component"
        checks.append(Check(says, more, _noise(X, factors, info)))
    return verdict(checks, _quality(X, factors))


# --- runs from a given start ----------------------------------------------------------------------


def _cp_als_run(case: Case, out: Any, info: Info) -> Judgement:
    """Replay a run of least squares, :eq:`conformance-replay`."""
    given, sweeps = given_of(case), case["options"]["sweeps"]
    X, now = given["X"], list(given["factors"])
    shapes, modes = [loops.shape_of(A) for A in now], len(now)
    iterates = read_results("iterates", out["iterates"], shapes * sweeps, [declared(info).real])
    errors = read_result("errors", out["errors"], (sweeps,), FLOATS)

    def checks() -> Iterator[Check]:
        for k, A in enumerate(iterates):
            found = [gradient_check(X, now, k % modes, A, info)]
            now[k % modes] = A
            if k % modes == modes - 1:
                left, noise = loops.squared_error(X, now), _noise(X, now, info)
                found.append(_honest(X, errors[k // modes], left, noise))
            yield from _named(f"sweep {k // modes}", found)

    return verdict(checks(), lambda: _quality(X, now))


def _named(place: str, checks: Iterable[Check]) -> Iterator[Check]:
    return (check._replace(what=f"{place}: {check.what}") for check in checks)


class _Steps(NamedTuple):
    """What a run returned for each of its steps."""

    T: Sequence[Matrix]
    H: Sequence[Matrix]
    U: Sequence[Matrix]
    rhos: Sequence[Fraction]
    scales: Sequence[Fraction]


def _steps(out: Any, every: Sequence[Any], info: Info) -> _Steps:
    kinds, sign = [declared(info).real], dual_sign(info)
    T, H, U = (read_results(name, out[name], every, kinds) for name in "THU")
    rhos, scales = (read_result(n, out[n], (len(every),), FLOATS) for n in ("rhos", "scales"))
    refuse(min([*rhos, *scales]) <= 0, "wrong-value", "rhos, scales: expected numbers above 0")
    return _Steps(T, H, [each(lambda u: sign * u, one) for one in U], rhos, scales)


def _ao_admm_run(case: Case, out: Any, info: Info) -> Judgement:
    """Replay a run of AO-ADMM, :eq:`conformance-replay`; the best sweep has to be returned."""
    given, options = given_of(case), case["options"]
    X, now, count, sweeps = given["X"], list(given["factors"]), options["steps"], options["sweeps"]
    shapes = [loops.shape_of(A) for A in now]
    steps = _steps(out, [shape for shape in shapes for _ in range(count)] * sweeps, info)
    errors = read_result("errors", out["errors"], (sweeps,), FLOATS)
    error = read_result("error", out["error"], (), FLOATS)
    best = _on_grid(out, shapes, case, "best_scales")
    duals, left = [each(lambda a: 0 * a, A) for A in now], list[Fraction]()

    def checks() -> Iterator[Check]:
        for k, (sweep, mode) in enumerate(product(range(sweeps), range(len(now)))):
            part = _Steps(*(one[k * count : (k + 1) * count] for one in steps))
            state = now[mode], duals[mode]
            steps_of_mode = _mode(_formed(X, now, mode, info), state, part, options, info)
            yield from _named(f"sweep {sweep}, mode {mode}", steps_of_mode)
            now[mode], duals[mode] = part.H[-1], part.U[-1]
            if mode == len(now) - 1:
                left.append(loops.squared_error(X, now))
                found = [_honest(X, errors[sweep], left[-1], _noise(X, now, info))]
                yield from _named(f"sweep {sweep}", found)
        least, noise = loops.squared_error(X, best), _noise(X, best, info)
        says = "codes, best_scales: not those of the best sweep"
        yield Check(says, abs(least - min(left)), 2 * noise)
        yield _honest(X, error, least, noise)

    return verdict(checks(), lambda: _quality(X, best))


def _mode(
    problem: tuple[Matrix, Matrix, Sizes],
    state: tuple[Matrix, Matrix],
    part: _Steps,
    ends: Mapping[str, int],
    info: Info,
) -> Iterator[Check]:
    """Yield the checks of all steps of one mode in one sweep."""
    (F, G, sizes), (H, U) = problem, state
    for k, (T, new, dual, rho, scale) in enumerate(zip(*part, strict=True)):
        step = Step(F, G, H, U, rho, scale)
        yield from _named(f"step {k}", [_weight(step, sizes, info)])
        yield from _named(f"step {k}", step_checks(step, (T, new, dual), sizes, ends, info))
        yield from _named(f"step {k}", [_best_scale(T, U, scale, ends, info)])
        H, U = new, dual


def _formed(
    X: Any, factors: Sequence[Matrix], mode: int, info: Info
) -> tuple[Matrix, Matrix, Sizes]:
    """Return F and G, what they are summed from, and the rounding of these sums."""
    shape, positive = loops.shape_of(X), [each(abs, A) for A in factors]
    size = loops.build(shape, lambda *i: abs(loops.at(X, i)))
    rows = [side for n, side in enumerate(shape) if n != mode]
    forming = growth(prod(rows) + sum(rows) + 2 * len(rows), info)
    F, G = loops.mttkrp(X, factors, mode), loops.gram(factors, mode)
    sizes = loops.mttkrp(size, positive, mode), norm(loops.gram(positive, mode))
    return F, G, Sizes(*sizes, forming)


def _weight(step: Step, sizes: Sizes, info: Info) -> Check:
    """Check that the weight is the mean of the diagonal, or 1 if that is zero :eq:`admm-rho`."""
    rank = len(step.G)
    rho = Fraction(sum(step.G[r][r] for r in range(rank)), rank) or Fraction(1)
    bound = (sizes.forming + growth(rank + 1, info)) * 2 * rho
    return Check("rho: not the mean of the diagonal of G", abs(step.rho - rho), bound)


def _best_scale(T: Matrix, U: Matrix, scale: Fraction, ends: Any, info: Info) -> Check:
    """Check the squared error of projecting ``T - U`` against the least one."""
    pairs = [*zip(flat_numbers(T), flat_numbers(U), strict=True)]
    V, low, high = [t - u for t, u in pairs], ends["qmin"], ends["qmax"]
    codes = [min(max(round(v / scale), low), high) for v in V]
    left = square_of([v - scale * k for v, k in zip(V, codes, strict=True)])
    least = square_of(V) - max(_gains(V, low, high), default=Fraction(0))
    bound = 19 * growth(len(V) + 6, info) * sum((abs(t) + abs(u)) ** 2 for t, u in pairs)
    return Check("scale: not that of least squared error", left - least, bound)


def _gains(V: Sequence[Fraction], low: int, high: int) -> Iterator[Fraction]:
    """Yield what the squared error falls by, for the codes between each two breaks.

    A break is a scale at which a code changes; in between the best scale is a quotient of two sums
    :eq:`grid-exact`.
    """
    steps = [Fraction(2 * k - 1, 2) for k in range(low + 1, high + 1)]
    breaks = {v / step for v in V for step in steps if v * step > 0}
    ends = [Fraction(0), *sorted(breaks)]
    for one, two in zip(ends, [*ends[1:], 2 * ends[-1] + 1], strict=True):
        middle = (one + two) / 2
        codes = [min(max(round(v / middle), low), high) for v in V]
        first, second = sum(map(mul, V, codes)), sum(k * k for k in codes)
        if first > 0:
            yield first * first / second


RUNS: dict[str, Callable[[Case, Any, Info], Judgement]] = {
    "cp_als": _cp_als,
    "ao_admm": _ao_admm,
    "cp_als_run": _cp_als_run,
    "ao_admm_run": _ao_admm_run,
}

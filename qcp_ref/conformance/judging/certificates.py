r"""How is a result judged that is not unique, or that no finite number of digits can show?

By a certificate: a property that every right answer has and that can be computed from the answer
itself. A factor is a minimiser if the gradient there is of the size of rounding errors
:eq:`conformance-gradient`, a scale is right if its squared error is the least there is
:eq:`conformance-scale`. Everything here is computed in exact rational numbers; only the thresholds
depend on roundings, those of the declared arithmetic; the theory page of the kit proves them, and
says where room was added to what is proven.

A step is judged on the implementation's own earlier results: the projection of an ADMM step starts
from the ``T`` that was returned, the second update of a sweep from the first factor that was
returned. So one mistake is reported once, where it was made.

Checked by tests/conformance/judging/test_certificates.py.
"""

from collections.abc import Callable
from fractions import Fraction
from operator import mul
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.cases.solvers import minimiser
from qcp_ref.conformance.dyadic import flat_numbers, fractions
from qcp_ref.conformance.judging.checks import (
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
    guarded,
    norm,
    normal_growth,
    plus_diagonal,
    problem,
    read_result,
    read_results,
    refuse,
    refuse_outside,
    root,
    square_of,
    verdict,
)
from qcp_ref.conformance.judging.runs import RUNS
from qcp_ref.conformance.judging.steps import Sizes, Step, dual_sign, step_checks
from qcp_ref.conformance.judging.verdict import Judgement

__all__ = ["CERTIFICATES"]

# --- scales ---------------------------------------------------------------------------------------


def _scale(case: Case, out: Any, info: Info) -> Judgement:
    """Check the squared error at the scale against the least one."""
    entries = flat_numbers(given_of(case)["x"])
    low, high = case["options"]["qmin"], case["options"]["qmax"]
    scale = read_result("scale", out["scale"], (), [declared(info).real])
    refuse(scale <= 0, "wrong-value", f"scale: expected a number above 0, got {float(scale)}")
    left = square_of([x - scale * min(max(round(x / scale), low), high) for x in entries])
    # J(s) - J* <= 19 gamma_{m+5} ||x||^2  :eq:`conformance-scale`
    bound = 19 * growth(len(entries) + 5, info) * square_of(entries)
    more = left - Fraction(case["out"]["least"])
    return verdict([Check("squared error at this scale", more, bound)])


def _balance(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the tensor is the same, and that a component's columns are equally long."""
    given = given_of(case)
    A, w = given["factors"], given["weights"]
    shapes = [loops.shape_of(one) for one in A]
    factors = read_results("factors", out["factors"], shapes, [declared(info).real])
    rate = growth(2 * sum(rows + 2 for rows, _ in shapes) + 8 * len(shapes), info)
    # |X' - X| <= gamma_n sum_r |w_r| prod_m |A_m[:, r]|  :eq:`conformance-balance`
    # max l^2 - min l^2 <= 3 gamma_n max l^2, for the lengths l of a component's columns
    sizes = loops.reconstruct([each(abs, one) for one in A], w and [abs(x) for x in w])
    tensors = map(flat_numbers, (loops.reconstruct(factors), loops.reconstruct(A, w), sizes))
    checks = [Check("tensor", abs(y - v), rate * g) for y, v, g in zip(*tensors, strict=True)]
    for columns in zip(*(zip(*one, strict=True) for one in factors), strict=True):
        lengths = [square_of(list(column)) for column in columns]
        gap = max(lengths) - min(lengths)
        checks.append(Check("lengths of columns", gap, 3 * rate * max(lengths)))
    return verdict(checks)


# --- least squares --------------------------------------------------------------------------------


def _als_update(case: Case, out: Any, info: Info) -> Judgement:
    given, mode = given_of(case), case["options"]["mode"]
    A = read_result("A", out["A"], loops.shape_of(given["factors"][mode]), [declared(info).real])
    return verdict([gradient_check(given["X"], given["factors"], mode, A, info)])


def _als_sweep(case: Case, out: Any, info: Info) -> Judgement:
    """Judge each factor given the implementation's own ones before it, the old ones after it."""
    given = given_of(case)
    factors = given["factors"]
    shapes = [loops.shape_of(A) for A in factors]
    new = read_results("factors", out["factors"], shapes, [declared(info).real])
    mixed = ([*new[:mode], *factors[mode:]] for mode in range(len(new)))
    X = given["X"]
    return verdict([gradient_check(X, mix, n, new[n], info) for n, mix in enumerate(mixed)])


# --- ADMM -----------------------------------------------------------------------------------------


def _admm_step(case: Case, out: Any, info: Info) -> Judgement:
    """Check the solve, the projection and the dual, each by itself."""
    given, shape = given_of(case), loops.shape_of(fractions(case["in"]["F"]))
    kinds, sign = [declared(info).real], dual_sign(info)
    T, H, dual = (read_result(name, out[name], shape, kinds) for name in "THU")
    U, dual = (each(lambda x: sign * x, one) for one in (given["U"], dual))
    step = Step(given["F"], given["G"], given["H"], U, given["rho"], given["scale"])
    sizes = Sizes(each(abs, step.F), norm(step.G), Fraction(0))
    return verdict([*step_checks(step, (T, H, dual), sizes, case["options"], info)])


# --- EPC ------------------------------------------------------------------------------------------


def _epc_update(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the error obeys its bound, and that no smaller components do."""
    given, mode = given_of(case), case["options"]["mode"]
    X, factors = given["X"], given["factors"]
    A = read_result("A", out["A"], loops.shape_of(factors[mode]), [declared(info).real])
    M, K = problem(X, factors, mode)
    F, G, square = loops.matmul(M, K), loops.gram(factors, mode), square_of(X)
    lengths = [G[r][r] for r in range(len(G))]

    def components(B: Matrix) -> Fraction:
        return sum((g * b * b for row in B for g, b in zip(lengths, row, strict=True)), Fraction(0))

    least = minimiser(G, F)
    tau = case["out"]["tau"]
    best = each(lambda _: Fraction(0), F)
    if tau is not None:
        best = minimiser(plus_diagonal(G, [Fraction(tau) * g for g in lengths]), F)
    # e(A) <= delta^2 + eta, eta = (gamma_n + 8 t) (||X|| + sqrt(R c(A_0)))^2  :eq:`conformance-epc`
    # c(A) <= (1 + gamma_n) ((1 - theta) c(A_tau) + theta c(A_0))
    # 1 - theta = sqrt(1 - eta / (delta^2 - e(A_0))); c: squared component norms, A_0: least error
    size = (norm(X) + root(len(G) * components(least))) ** 2
    evaluation = growth(error_steps(loops.shape_of(X), len(G)), info)
    noise = (evaluation + 8 * normal_growth(factors, mode, info)) * size
    allowed = given["delta"] ** 2
    room = allowed - loops.partial_error(F, G, least, square)
    share = 1 - root(1 - noise / room) if noise < room else Fraction(1)
    tighter = (1 - share) * components(best) + share * components(least)
    bound = tighter * (1 + evaluation) - components(best)
    excess = loops.partial_error(F, G, A, square) - allowed
    more = components(A) - components(best)
    return verdict([
        Check("squared error above delta^2", max(excess, Fraction(0)), noise),
        Check("squared component norms above the least", max(more, Fraction(0)), bound),
    ])  # fmt: skip


# --- one factor in codes --------------------------------------------------------------------------


def _refit_scale(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the error is stationary in the scale up to rounding."""
    # |s <V G, V> - <F, V>| <= gamma_n (<|F|, |V|> + |s| <|V| |G|, |V|>)  :eq:`conformance-refit`
    given, scale = given_of(case), read_result("scale", out["scale"], (), [declared(info).real])
    parts = [given[name] for name in ("F", "G", "codes")]
    upper, lower = _along(*parts)
    above, below = _along(*(each(abs, part) for part in parts))
    rows, rank = loops.shape_of(given["F"])
    bound = growth((rows + rank) * (rank + 1) + 2, info) * (above + abs(scale) * below)
    return verdict([Check("slope of the error", abs(scale * lower - upper), bound)])


def _along(F: Matrix, G: Matrix, V: Matrix) -> tuple[Fraction, Fraction]:
    """Return ``<F, V>`` and ``<V G, V>``, whose quotient is the best scale :eq:`rows-scale`."""
    F, G, V = flat_numbers(F), flat_numbers(loops.matmul(V, G)), flat_numbers(V)
    return sum(map(mul, F, V), Fraction(0)), sum(map(mul, G, V), Fraction(0))


def _closest_rows(case: Case, out: Any, _: Info) -> Judgement:
    """Check each row's objective against the least one, exactly."""
    # v G v^T - 2 f v^T / s <= min over v'  :eq:`conformance-closest`
    given = given_of(case)
    V = read_result("codes", out["codes"], loops.shape_of(given["F"]), INTEGERS)
    refuse_outside(flat_numbers(V), case)
    checks = []
    for i, (row, v, least) in enumerate(zip(given["F"], V, case["out"]["least"], strict=True)):
        f = [x / given["scale"] for x in row]
        more = loops.row_objective(f, given["G"], v) - Fraction(least)
        checks.append(Check(f"row {i}: {more} above the least objective", more, Fraction(0)))
    return verdict(checks)


_ALL = {
    "choose_scale": _scale, "balance": _balance, "als_update": _als_update,
    "als_sweep": _als_sweep, "admm_step": _admm_step, "epc_update": _epc_update,
    "refit_scale": _refit_scale, "closest_rows": _closest_rows, **RUNS,
}  # fmt: skip
CERTIFICATES: dict[str, Callable[[Case, Any, Info], Judgement]]
CERTIFICATES = {name: guarded(certificate) for name, certificate in _ALL.items()}

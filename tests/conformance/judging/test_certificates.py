"""Certificates: right results of any origin are accepted, small changes are not.

What is accepted comes from exact arithmetic (the loops), from the book and from solvers written
apart; what is refused is one of these, changed a little.
"""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import caught, exact, seeds

import qcp_ref
from qcp_ref import loops
from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases.make import make
from qcp_ref.conformance.dyadic import SplitMix64, decode, encode
from qcp_ref.conformance.faults.catalogue import shorten
from qcp_ref.conformance.faults.solvers import SOLVERS
from qcp_ref.conformance.judging import certificates as certs
from qcp_ref.conformance.judging import checks, runs
from qcp_ref.conformance.judging import steps as admm_steps
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.spec import OPS

THIS = sys.modules[__name__]
F64 = Adapter("test").hello()


def cert(op, inputs, options=None, **data):
    return make(op, "test", "", [], inputs, options, out={"kind": "cert", "name": op, **data})


def results(case, values, info=F64):
    """Judge results given as arrays, or lists of arrays."""
    names = OPS[case["op"]].results
    pairs = zip(names, values if len(names) > 1 else (values,), strict=True)
    out = {n: [encode(p) for p in v] if isinstance(v, list) else encode(v) for n, v in pairs}
    return judge(case, out, info)


def arguments(case, real="f64"):
    return [
        [decode(one, real) for one in part]
        if isinstance(part, list)
        else part and decode(part, real)
        for part in (case["in"][name] for name in OPS[case["op"]].arrays)
    ]


def solved(case, function=None):
    return (function or SOLVERS[case["op"]])(*arguments(case), **case["options"])


def rounded(numbers):
    """Nested fractions to the nearest float64."""
    return np.array(loops.build(loops.shape_of(numbers), lambda *i: float(loops.at(numbers, i))))


@st.composite
def fits(draw, op="als_update"):
    """A tensor of two to four modes with factors whose Gram matrices are regular."""
    rng = SplitMix64(draw(seeds))
    shape = [rng.integer(2, 4) for _ in range(rng.integer(2, 4))]
    rank = rng.integer(1, 2)
    factors = [
        [[rng.integer(-2, 2) + 8 * (i == r) for r in range(rank)] for i in range(side)]
        for side in shape
    ]
    X = rng.integers(shape, -9, 9)
    options = {"mode": rng.integer(0, len(shape) - 1)} if op == "als_update" else {}
    return cert(op, {"X": X, "factors": factors}, options)


@st.composite
def steps(draw, **changes):
    rng = SplitMix64(draw(seeds))
    rows, rank = rng.integer(1, 4), rng.integer(1, 3)
    F, H, U = (rng.integers((rows, rank), -50, 50) for _ in range(3))
    numbers = {"rho": Fraction(rng.integer(1, 64), 8), "scale": Fraction(rng.integer(1, 16), 8)}
    G = loops.gram([rng.integers((4, rank), -5, 5)])
    inputs = {"F": F, "G": G, "H": H, "U": U, **numbers, **changes}
    return cert("admm_step", inputs, {"qmin": -8, "qmax": 7})


# --- least squares --------------------------------------------------------------------------------


@given(fits(), st.floats(-1, 1))
def test_minimisers_and_nothing_else_are_accepted(case, direction):
    X, factors = (exact(part) for part in arguments(case))
    mode = case["options"]["mode"]
    A = rounded(loops.solve(loops.gram(factors, mode), loops.mttkrp(X, factors, mode)))
    assert results(case, A).outcome == "pass"
    assert results(case, solved(case)).outcome == "pass"
    book = qcp_ref.als_update(*normal_equations(case)).factor
    assert results(case, book).outcome == "pass"
    for size in (1e-3, 1e-9):
        changed = A.copy()
        changed[0, -1] += size * (1 + np.abs(A).max()) * (1 if direction > 0 else -1)
        found = results(case, changed)
        assert (found.outcome, found.word) == ("fail", "wrong-value")
        assert found.margin > 1 and "gradient" in found.says


def normal_equations(case):
    X, factors = arguments(case)
    mode = case["options"]["mode"]
    return qcp_ref.mttkrp(X, factors, mode), qcp_ref.gram(factors, mode)


@given(fits("als_sweep"))
def test_a_sweep_is_judged_factor_by_factor(case):
    right = solved(case)
    assert results(case, right).outcome == "pass"
    X, factors = arguments(case)
    assume(all(np.linalg.matrix_rank(A) == factors[0].shape[1] for A in right))
    # A wrong first factor, and the right answers to it: only the first one is reported.
    new = [right[0] + 1, *factors[1:]]
    for mode in range(1, X.ndim):
        new[mode] = SOLVERS["als_update"](X, new, mode=mode)
    checks = []
    wrong = results(case, new)
    assert wrong.outcome == "fail" and wrong.says.startswith("gradient of mode 0")
    new = [*right[:-1], right[-1] * (1 + 1e-6)]
    checks.append(results(case, new))
    assert checks[0].outcome == "fail" and f"mode {X.ndim - 1}" in checks[0].says


def test_every_minimiser_of_a_singular_problem_is_accepted():
    column = [[1], [2], [-1]]
    double = [[row[0], 2 * row[0]] for row in column]
    X = [[3, 1, 4], [1, -5, 9]]
    case = cert("als_update", {"X": X, "factors": [[[0, 0]] * 2, double]}, {"mode": 0})
    shortest = solved(case)
    for t in (-7.0, 0.0, 1.0, 1e3):
        assert results(case, shortest + t * np.array([[2.0, -1.0], [4.0, -2.0]])).outcome == "pass"
        assert results(case, shortest + t + 0.5).outcome == "fail"


def test_the_threshold_does_not_depend_on_the_condition():
    step = 2.0**-12
    B = [[4 + i + step * b for b in row] for i, row in enumerate([[1, -2], [3, 1], [-1, 2]])]
    rng = np.random.default_rng(3)
    A = rng.integers(-5, 6, (4, 2)).astype(float)
    X = A @ np.array(B).T + rng.integers(-5, 6, (4, 3)) / 64
    case = cert("als_update", {"X": X.tolist(), "factors": [A.tolist(), B]}, {"mode": 0})
    found = solved(case)
    truth = rounded(loops.solve(loops.gram([exact(B)]), loops.matmul(exact(X), exact(B))))
    assert np.abs(found - truth).max() > 1e-10 * np.abs(truth).max()  # far away ...
    assert results(case, found).outcome == "pass"  # ... and yet a good solution
    K = np.array(B)
    assert results(case, X @ K @ np.linalg.inv(K.T @ K)).outcome == "fail"


def test_between_what_was_measured_and_what_is_allowed_a_result_is_suspect():
    inputs = {"X": [[8, 3, -5], [2, 9, 1]], "factors": [[[1, 1]] * 2, [[3, 1], [1, 2], [-1, 4]]]}
    case = cert("als_update", inputs, {"mode": 0})
    A = solved(case)
    found = [results(case, A * (1 + 2.0**-k)).outcome for k in range(52, 39, -1)]
    assert list(dict.fromkeys(found)) == ["pass", "suspect", "fail"]


# --- ADMM -----------------------------------------------------------------------------------------


@given(steps())
def test_a_step_is_judged_part_by_part(case):
    T, H, U = solved(case)
    assert results(case, (T, H, U)).outcome == "pass"
    scale = float(arguments(case)[-1])
    for changed, name in (
        ((T + 1e-6 * (1 + np.abs(T)), H, U), "T:"),
        ((T, np.where(H > 0, H - 8 * scale, H + 7 * scale), U), "H:"),
        ((T, H + scale / 3, U), "H:"),
        ((T, H, U + 1e-9 * (1 + np.abs(U) + np.abs(H) + np.abs(T))), "U:"),
    ):
        found = results(case, changed)
        assert (found.outcome, found.word) == ("fail", "wrong-value")
        assert found.says.startswith(name), found.says


@given(steps())
def test_a_wrong_projection_does_not_make_the_dual_wrong(case):
    *_, U, _rho, scale = arguments(case)
    T, right, _ = solved(case)
    fraction = np.abs((T - U) / scale % 1 - 0.5)
    assume(fraction.min() > 1e-6)  # else the other code may be right too
    other = np.where(right > 0, right - scale, right + scale)
    found = results(case, (T, other, U + other - T))
    assert found.says.startswith("H: code")
    assert "is not the nearest one" in found.says


@given(steps())
def test_a_negated_dual_is_right_only_if_declared(case):
    F, G, H, V, rho, scale = arguments(case)
    T = np.linalg.solve(G + rho * np.eye(len(G)), (F + rho * (H - V)).T).T
    new = scale * np.clip(np.rint((T + V) / scale), -8, 7)
    answer = (T, new, V - (new - T))
    assert results(case, answer, Adapter("test", dual="minus").hello()).outcome == "pass"
    if V.any():
        assert results(case, answer).outcome == "fail"


def tie(info, code):
    """Judge one entry whose T - U is 5/2, exactly."""
    inputs = {"F": [[5]], "G": [[1]], "H": [[0]], "U": [[0]], "rho": 1, "scale": 1}
    case = cert("admm_step", inputs, {"qmin": -8, "qmax": 7})
    T, H = np.array([[2.5]]), np.array([[float(code)]])
    return results(case, (T, H, H - T), info).outcome


def test_the_declared_rounding_decides_exact_ties():
    away, up = (Adapter("t", weight_rounding=rule).hello() for rule in ("half-away", "half-up"))
    assert [tie(F64, 2), tie(F64, 3)] == ["pass", "fail"]
    assert [tie(away, 2), tie(away, 3)] == ["fail", "pass"]
    assert [tie(up, 2), tie(up, 3)] == ["fail", "pass"]


def test_near_a_tie_that_was_rounded_both_codes_are_allowed():
    # 5/2 of the scale 3/8 is exact, but its quotient by a rounded reciprocal is not.
    inputs = {"F": [[5 * 3]], "G": [[8]], "H": [[0]], "U": [[0]], "rho": 8, "scale": Fraction(3, 8)}
    case = cert("admm_step", inputs, {"qmin": -8, "qmax": 7})
    T = np.array([[15 / 16]])
    for code, outcome in ((1, "fail"), (2, "pass"), (3, "pass"), (4, "fail")):
        H = np.array([[code * 0.375]])
        assert results(case, (T, H, H - T)).outcome == outcome


def test_codes_beyond_the_ends_are_not_on_the_grid():
    inputs = {"F": [[40]], "G": [[1]], "H": [[0]], "U": [[0]], "rho": 1, "scale": 1}
    case = cert("admm_step", inputs, {"qmin": -8, "qmax": 7})
    T = np.array([[20.0]])
    for code, says in ((7, ""), (6, "H: code 6"), (20, "H: 20 is not on the grid")):
        H = np.array([[float(code)]])
        assert results(case, (T, H, H - T)).says.startswith(says)


# --- scales, balance ------------------------------------------------------------------------------


@st.composite
def scalings(draw):
    rng = SplitMix64(draw(seeds))
    bits, narrow = rng.integer(2, 4), bool(rng.integer(0, 1))
    x = rng.integers((rng.integer(1, 6),), -40, 40)
    grid, numbers = {"bits": bits, "narrow": narrow}, exact(x)
    scale = loops.choose_scale(numbers, grid)
    fitted = loops.dequantize(loops.quantize(numbers, grid, scale), scale)
    least = sum((a - b) ** 2 for a, b in zip(numbers, fitted, strict=True))
    low, high, _ = loops.code_range(**grid)
    options = {"qmin": low, "qmax": high, "rule": "mse"}
    return cert("choose_scale", {"x": x}, options, least=str(least)), float(scale)


@given(scalings(), st.integers(-30, 30))
def test_a_scale_is_right_if_its_squared_error_is_least(problem, percent):
    case, scale = problem
    assert results(case, np.float64(scale)).outcome == "pass"
    assert results(case, solved(case)).outcome == "pass"
    x, other = arguments(case)[0], scale * (1 + percent / 100)
    codes = np.clip(np.rint(x / other), case["options"]["qmin"], case["options"]["qmax"])
    worse = ((x - other * codes) ** 2).sum() > float(Fraction(case["out"]["least"])) + 1e-9
    assert results(case, np.float64(other)).outcome == ("fail" if worse else "pass")
    for bad in (0.0, -scale):
        assert "above 0" in results(case, np.float64(bad)).says


@given(seeds, st.integers(2, 4), st.integers(1, 3))
def test_balanced_factors_are_those_of_the_same_tensor(seed, order, rank):
    rng = SplitMix64(seed)
    factors = [rng.integers((rng.integer(1, 4), rank), 1, 9) for _ in range(order)]
    weights = [rng.integer(1, 9) * rng.choice((-1, 1)) for _ in range(rank)]
    case = cert("balance", {"factors": factors, "weights": weights})
    right = solved(case)
    assert results(case, right).outcome == "pass"
    signs = np.where(np.arange(rank) % 2, -1, 1)
    assert results(case, [right[0] * signs, right[1] * signs, *right[2:]]).outcome == "pass"
    assert results(case, [-right[0], *right[1:]]).says.startswith("tensor")
    stretched = [right[0] * 2, right[1] / 2, *right[2:]]
    assert results(case, stretched).says.startswith("lengths of columns")
    assert results(case, [right[0] * (1 + 1e-9), *right[1:]]).outcome == "fail"


# --- EPC ------------------------------------------------------------------------------------------


def correction(share, X=None):
    """One component of length 5 times 3; the exact solution is known in closed form."""
    X = [[3 + 1, 4], [6, 8 - 1], [6, 8]] if X is None else X
    factors = [[[1], [1], [1]], [[3], [4]]]
    F, G = loops.mttkrp(X, factors, 0), loops.gram(factors, 0)
    square = loops.squared_error(X, [[[0]] * 3, factors[1]])
    least = loops.partial_error(F, exact(G), loops.solve(exact(G), F), square)
    delta = Fraction(int((float(least + share * (square - least))) ** 0.5 * 64), 64)
    room = (delta**2 - least) / (square - least)
    kappa = Fraction(int(float(room) ** 0.5 * 2**50), 2**50)
    tau = kappa / (1 - kappa)
    inputs = {"X": X, "factors": factors, "delta": delta}
    case = cert("epc_update", inputs, {"mode": 0}, tau=str(tau))
    return case, (1 - float(kappa)) * rounded(F) / float(G[0][0])


@pytest.mark.parametrize("share", [Fraction(1, 16), Fraction(1, 4), Fraction(3, 4)])
def test_the_closed_form_for_one_component_is_accepted(share):
    case, A = correction(share)
    assert results(case, A).outcome == "pass"
    assert results(case, solved(case)).outcome == "pass"
    found = results(case, 1.001 * A)
    assert found.says.startswith("squared component norms")
    found = results(case, 0.999 * A)
    assert found.says.startswith("squared error above")
    assert results(case, A + np.array([[1e-3], [0], [0]])).outcome == "fail"


def test_the_book_solves_the_same_problem():
    case, _ = correction(Fraction(1, 3))
    X, factors, delta = arguments(case)
    unit = [factors[0], factors[1] / 5]
    found = qcp_ref.epc_update(
        qcp_ref.mttkrp(X, unit, 0), qcp_ref.gram(unit, 0), float((X**2).sum()), float(delta) ** 2
    )
    assert results(case, found.factor / 5).outcome == "pass"


def test_without_room_only_least_squares_is_left():
    X = [[3, 4], [6, 8], [6, 8]]
    inputs = {"X": X, "factors": [[[1], [1], [1]], [[3], [4]]], "delta": 0}
    case = cert("epc_update", inputs, {"mode": 0}, tau="0")
    assert results(case, np.array([[1.0], [2.0], [2.0]])).outcome == "pass"
    assert results(case, np.array([[1.0], [2.0], [1.99]])).outcome == "fail"


# --- whole runs -----------------------------------------------------------------------------------


def run_case(op, **options):
    X = [[[5, -3], [2, 7]], [[1, 4], [-6, 2]], [[3, 3], [0, -8]]]
    return cert(op, {"X": X}, {"rank": 2, "seed": 1, **options})


def test_a_fit_has_to_be_honest_about_its_error():
    case = run_case("cp_als")
    fit = qcp_ref.cp_als(*arguments(case), 2, rng=1)
    factors, error = list(fit.cp.factors), np.float64(fit.error)
    found = results(case, (factors, error))
    assert found.outcome == "pass" and found.says == f"relative error {fit.error:.4f}"
    for wrong in (error * 0.999, np.float64(0), -error):
        assert "not that of the factors" in results(case, (factors, wrong)).says
    doubled = [factors[0] * 4, *factors[1:]]
    true = qcp_ref.relative_error(*arguments(case), qcp_ref.CP(doubled))
    assert true > 1
    assert "above that of zero" in results(case, (doubled, np.float64(true))).says


def test_codes_have_to_be_codes():
    case = run_case("ao_admm", qmin=-8, qmax=7)
    fit = qcp_ref.ao_admm(*arguments(case), 2, qcp_ref.Grid(4), rng=1)
    codes, scales, error = list(fit.cp.codes), np.array(fit.cp.scales), np.float64(fit.error)
    assert results(case, (codes, scales, error)).outcome == "pass"
    assert results(case, (codes, list(scales), error)).outcome == "pass"
    assert results(case, (codes, -scales, error)).says.startswith("scales")
    assert results(case, (codes, scales, error + 1e-6)).outcome == "fail"
    assert results(case, (codes, scales[:2], error)).word == "wrong-shape"
    assert results(case, ([k * 1.0 for k in codes], scales, error)).word == "wrong-dtype"
    codes = [k.astype(int) for k in codes]
    assert "outside" in results(case, ([codes[0] + 9, *codes[1:]], scales, error)).says
    assert "outside" in results(case, ([codes[0] - 17, *codes[1:]], scales, error)).says


# --- what is no array of numbers ------------------------------------------------------------------


@given(fits("als_sweep"))
@settings(max_examples=10)
def test_shapes_types_and_special_numbers(case):
    right = solved(case)
    assert results(case, right[:-1]).word == "wrong-shape"
    assert results(case, [right[0].T[:, :1], *right[1:]]).word == "wrong-shape"
    assert results(case, [right[0].astype("f4"), *right[1:]]).word == "wrong-dtype"
    assert results(case, [right[0].astype(int), *right[1:]]).word == "wrong-dtype"
    assert results(case, [right[0] * np.nan, *right[1:]]).word == "nan"
    out = {"factors": encode(right[0])}
    assert judge(case, out, F64).word == "wrong-shape"
    big = results(case, [right[0] * 1e200, *right[1:]])
    assert (big.word, big.outcome) == ("wrong-value", "fail")


def test_a_list_in_place_of_an_array():
    case = run_case("cp_als")
    fit = qcp_ref.cp_als(*arguments(case), 2, rng=1)
    found = results(case, (list(fit.cp.factors), [np.float64(fit.error)]))
    assert (found.word, found.says) == ("wrong-shape", "error: a list, expected []")


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_rounded_inputs_are_excused_only_if_declared(seed):
    rng = SplitMix64(seed)
    inputs = {"X": rng.integers((3, 4, 2), -999, 999)}
    inputs["factors"] = [rng.integers((side, 2), -999, 999) for side in (3, 4, 2)]

    def short(X, factors, *, mode):
        X, *factors = (shorten(A, 8) for A in (X, *factors))
        return SOLVERS["als_update"](X, factors, mode=mode)

    def outcome(arith):
        adapter = Adapter("short", arith=arith)
        adapter.ops["als_update"] = short
        case = cert("als_update", inputs, {"mode": 1})
        return judge(case, execute(adapter, case)["out"], adapter.hello()).outcome

    assert outcome("bf16>f32") == "pass"
    assert outcome("f32") == "fail"


@given(st.fractions(min_value=0), st.integers(-200, 200))
def test_square_roots_are_rounded_down_by_very_little(q, exponent):
    q *= Fraction(2) ** exponent
    root = checks.root(q)
    assert root**2 <= q <= root**2 * (1 + Fraction(1, 2**59))


def test_there_is_a_certificate_for_every_solver():
    solvers = {name for name, op in OPS.items() if op.level in ("L3", "L4")}
    solvers -= {"descend_rows", "nearest_plane"}  # these have one right answer
    assert set(CERTIFICATES) == solvers | {"choose_scale", "balance"}


# --- planted faults -------------------------------------------------------------------------------


def test_planted_faults_are_caught():
    def blind(checks, says=""):
        return certs.Judgement("pass", says=says)

    def wide(n, info):
        return Fraction(1, 99)

    def narrow(n, info):
        return Fraction(0)

    def always_both(t, u, scale, info):
        q = (t - u) / scale
        return round(q - Fraction(1, 2)), round(q + Fraction(1, 2))

    def never_both(t, u, scale, info):
        return 2 * (round((t - u) / scale),)

    near_a_tie = test_near_a_tie_that_was_rounded_both_codes_are_allowed
    for module, test, faults in (
        (certs, test_minimisers_and_nothing_else_are_accepted, {"verdict": blind}),
        (runs, test_a_fit_has_to_be_honest_about_its_error, {"verdict": blind}),
        (admm_steps, test_the_declared_rounding_decides_exact_ties, {"_nearest": always_both}),
        (admm_steps, test_the_declared_rounding_decides_exact_ties, {"_nearest": never_both}),
        (admm_steps, near_a_tie, {"_nearest": never_both}),
        (checks, test_minimisers_and_nothing_else_are_accepted, {"growth": wide}),
        (checks, test_minimisers_and_nothing_else_are_accepted, {"growth": narrow}),
    ):
        assert caught(module, test, **faults), (test.__name__, faults)


# --- one step of ADMM -----------------------------------------------------------------------------

STEP = admm_steps.Step(*([[Fraction(n)]] for n in (3, 2, 1, 0)), Fraction(2), Fraction(2))


@pytest.mark.parametrize(
    ("results", "wrong"),
    [
        # T = (3 + 2 (1 + 0)) / (2 + 2) = 5/4; 5/8 of a scale is nearest to 1, and U = 2 - 5/4
        (("5/4", "2", "3/4"), set()),
        (("3/2", "2", "1/2"), {"T: residual of the solve"}),
        (("5/4", "0", "-5/4"), {"H: code 0 is not the nearest one to (T - U) / scale = 0.625"}),
        (("5/4", "1", "-1/4"), {"H: 1 is not on the grid"}),
        (("5/4", "2", "-3/4"), {"U: as the dual of the own T and H"}),
    ],
)
def test_a_step_is_judged_by_its_three_results(results, wrong):
    out = [[[Fraction(part)]] for part in results]
    sizes = admm_steps.Sizes(STEP.F, Fraction(2), Fraction(0))
    found = admm_steps.step_checks(STEP, out, sizes, {"qmin": -2, "qmax": 1}, F64)
    assert {check.what for check in found if check.error > check.bound} == wrong


# --- the bound of a solve -------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 5, 9])
def test_a_solve_stays_within_its_bound_and_one_in_float32_does_not(rank, rng):
    K, F = rng.integers(-9, 10, (rank + 2, rank)), rng.integers(-99, 100, (3, rank))
    G = K.T @ K
    for dtype, within in ((np.float64, True), (np.float32, False)):
        T = np.linalg.solve(G.astype(dtype), F.T.astype(dtype)).T
        T, S, B = (exact(part) for part in (T.astype(float), G, F))
        residual = checks.each(lambda b, ts: b - ts, B, loops.matmul(T, S))
        bound = checks.solving(rank, F64) * checks.norm(T) * checks.norm(S)
        assert (checks.norm(residual) <= bound) == within

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

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor, isqrt, prod
from operator import mul, sub
from typing import Any, NamedTuple

from qcp_ref import loops
from qcp_ref.conformance.dyadic import flat_numbers, fractions
from qcp_ref.conformance.judging.verdict import Judgement
from qcp_ref.conformance.spec import Arithmetic

__all__ = ["CERTIFICATES"]

Case = Mapping[str, Any]
Info = Mapping[str, Any]  # what the adapter declares
Matrix = Any  # nested lists of fractions

_READS = 8  # at most this often is a number rounded to a shorter type on its way through products
_ROOM = 10  # for solves by orthogonal matrices, whose proofs leave a constant open
_USUAL = 20  # times rank * u: solves were seen to stay below, see the tests
_FLOATS = ("f32", "f64")
_INTEGERS = [f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)]


class _Refused(Exception):
    """Carries the verdict on a result that cannot be judged by its numbers."""


class _Check(NamedTuple):
    """An error, its proven bound, and a size that no correct implementation was seen to exceed."""

    what: str
    error: Fraction
    bound: Fraction
    usual: Fraction | None = None

    @property
    def margin(self) -> Fraction:
        return self.error / self.bound if self.bound else Fraction(10**9 * (self.error > 0))


def _verdict(checks: Sequence[_Check], says: str = "") -> Judgement:
    """Return the verdict on the first check that fails, else on the worst one."""
    failed = [check for check in checks if check.margin > 1]
    worst = failed[0] if failed else max(checks, key=lambda check: check.margin)
    margin = float(min(worst.margin, Fraction(10**9)))
    if failed:
        times = f": {margin:.3g} times the proven bound" if worst.bound else ""
        return Judgement("fail", "wrong-value", margin, worst.what + times)
    if any(check.usual is not None and check.error > check.usual for check in checks):
        return Judgement("suspect", "", margin, f"{worst.what}: larger than ever measured")
    return Judgement("pass", "", margin, says)


# --- reading --------------------------------------------------------------------------------------


def _given(case: Case) -> dict[str, Any]:
    """Return all inputs as fractions."""
    return {name: _read(part) for name, part in case["in"].items()}


def _read(part: Any) -> Any:
    return [_read(one) for one in part] if isinstance(part, list) else part and fractions(part)


def _refuse(wrong: bool, word: str, says: str) -> None:
    if wrong:
        raise _Refused("fail", word, 0.0, says)


def _result(name: str, part: Any, shape: Sequence[int], kinds: Sequence[str]) -> Any:
    """Read one array of the result, if it has the shape and one of the types."""
    found = part["s"] if isinstance(part, dict) else "a list"
    _refuse(found != list(shape), "wrong-shape", f"{name}: {found}, expected {list(shape)}")
    kind = part["t"]
    _refuse(kind not in kinds, "wrong-dtype", f"{name}: {kind}, expected {' or '.join(kinds)}")
    return fractions(part)


def _results(name: str, parts: Any, shapes: Sequence[Any], kinds: Sequence[str]) -> list[Any]:
    """Read a list of arrays."""
    wrong = not isinstance(parts, list) or len(parts) != len(shapes)
    _refuse(wrong, "wrong-shape", f"{name}: expected a list of {len(shapes)} arrays")
    return [_result(f"{name}[{i}]", parts[i], shape, kinds) for i, shape in enumerate(shapes)]


# --- arithmetic -----------------------------------------------------------------------------------


def _arithmetic(info: Info) -> Arithmetic:
    return Arithmetic.of(info["arith"])


def _growth(n: int, info: Info) -> Fraction:
    """Bound the relative error of ``n`` roundings in the declared arithmetic."""
    inputs, u, *_ = _arithmetic(info)
    # gamma_n = n u / (1 - n u)  :eq:`bounds-gamma`; inputs of a shorter type are rounded before
    return (1 + inputs) ** _READS * (1 + n * u / (1 - n * u)) - 1


def _solving(rank: int, info: Info) -> Fraction:
    """Bound the relative backward error of a solve."""
    # s = 10 R gamma_{3R+1} / (1 - R gamma_{R+1})  :eq:`conformance-solve`
    proven = rank * _growth(3 * rank + 1, info) / (1 - rank * _growth(rank + 1, info))
    return _ROOM * proven


def _root(q: Fraction) -> Fraction:
    """Square root, rounded down by less than one part in ``2**60``."""
    shift = 64 + q.denominator.bit_length()
    return Fraction(isqrt(q.numerator * q.denominator << 2 * shift), q.denominator << shift)


def _square(X: Any) -> Fraction:
    """Sum of the squares of all entries, of a tensor of any order."""
    return Fraction(sum(x * x for x in flat_numbers(X)))


def _norm(X: Any) -> Fraction:
    return _root(_square(X))


def _each(function: Callable[..., Any], *matrices: Matrix) -> Matrix:
    """Apply a function to the entries of matrices of one shape."""
    rows = zip(*matrices, strict=True)
    return [[function(*entries) for entries in zip(*row, strict=True)] for row in rows]


def _plus_diagonal(G: Matrix, diagonal: Sequence[Fraction]) -> Matrix:
    return [[g + (r == s) * diagonal[r] for s, g in enumerate(row)] for r, row in enumerate(G)]


# --- scales ---------------------------------------------------------------------------------------


def _scale(case: Case, out: Any, info: Info) -> Judgement:
    """Check the squared error at the scale against the least one."""
    entries = flat_numbers(_given(case)["x"])
    low, high = case["options"]["qmin"], case["options"]["qmax"]
    scale = _result("scale", out["scale"], (), [_arithmetic(info).real])
    _refuse(scale <= 0, "wrong-value", f"scale: expected a number above 0, got {float(scale)}")
    left = _square([x - scale * min(max(round(x / scale), low), high) for x in entries])
    # J(s) - J* <= 19 gamma_{m+5} ||x||^2  :eq:`conformance-scale`
    bound = 19 * _growth(len(entries) + 5, info) * _square(entries)
    more = left - Fraction(case["out"]["least"])
    return _verdict([_Check("squared error at this scale", more, bound)])


def _balance(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the tensor is the same, and that a component's columns are equally long."""
    given = _given(case)
    A, w = given["factors"], given["weights"]
    shapes = [loops.shape_of(one) for one in A]
    factors = _results("factors", out["factors"], shapes, [_arithmetic(info).real])
    growth = _growth(2 * sum(rows + 2 for rows, _ in shapes) + 8 * len(shapes), info)
    # |X' - X| <= gamma_n sum_r |w_r| prod_m |A_m[:, r]|  :eq:`conformance-balance`
    # max l^2 - min l^2 <= 3 gamma_n max l^2, for the lengths l of a component's columns
    sizes = loops.reconstruct([_each(abs, one) for one in A], w and [abs(x) for x in w])
    tensors = map(flat_numbers, (loops.reconstruct(factors), loops.reconstruct(A, w), sizes))
    checks = [_Check("tensor", abs(y - v), growth * g) for y, v, g in zip(*tensors, strict=True)]
    for columns in zip(*(zip(*one, strict=True) for one in factors), strict=True):
        lengths = [_square(list(column)) for column in columns]
        gap = max(lengths) - min(lengths)
        checks.append(_Check("lengths of columns", gap, 3 * growth * max(lengths)))
    return _verdict(checks)


# --- least squares --------------------------------------------------------------------------------


def _problem(X: Any, factors: Sequence[Matrix], mode: int) -> tuple[Matrix, Matrix]:
    """Return ``M`` and ``K`` of the least-squares problem ``min norm(M - A K^T)`` of a mode."""
    others = [A for n, A in enumerate(factors) if n != mode]
    return loops.unfold(X, mode), loops.khatri_rao(others)


def _normal_growth(factors: Sequence[Matrix], mode: int, info: Info) -> Fraction:
    """Relative size of all errors in forming and solving the normal equations."""
    # t = (1 + gamma_{P + 2d})^2 (1 + s) - 1  :eq:`conformance-gradient`
    rows = [len(A) for n, A in enumerate(factors) if n != mode]
    forming = 1 + _growth(prod(rows) + 2 * len(rows), info)
    return forming**2 * (1 + _solving(len(factors[0][0]), info)) - 1


def _gradient(X: Any, factors: Sequence[Matrix], mode: int, A: Matrix, info: Info) -> _Check:
    """Check that the gradient vanishes up to rounding."""
    # ||(M - A K^T) K|| <= t ||K|| (||M|| + ||A|| ||K||)  :eq:`conformance-gradient`
    M, K = _problem(X, factors, mode)
    transposed = [list(column) for column in zip(*K, strict=True)]
    gradient = loops.matmul(_each(sub, M, loops.matmul(A, transposed)), K)
    size = _norm(K) * (_norm(M) + _norm(A) * _norm(K))
    usual = _growth(_USUAL * len(transposed), info) * size
    bound = _normal_growth(factors, mode, info) * size
    return _Check(f"gradient of mode {mode}", _norm(gradient), bound, usual)


def _als_update(case: Case, out: Any, info: Info) -> Judgement:
    given, mode = _given(case), case["options"]["mode"]
    A = _result("A", out["A"], loops.shape_of(given["factors"][mode]), [_arithmetic(info).real])
    return _verdict([_gradient(given["X"], given["factors"], mode, A, info)])


def _als_sweep(case: Case, out: Any, info: Info) -> Judgement:
    """Judge each factor given the implementation's own ones before it, the old ones after it."""
    given = _given(case)
    factors = given["factors"]
    shapes = [loops.shape_of(A) for A in factors]
    new = _results("factors", out["factors"], shapes, [_arithmetic(info).real])
    mixed = ([*new[:mode], *factors[mode:]] for mode in range(len(new)))
    return _verdict([_gradient(given["X"], mix, n, new[n], info) for n, mix in enumerate(mixed)])


# --- ADMM -----------------------------------------------------------------------------------------


def _admm_step(case: Case, out: Any, info: Info) -> Judgement:
    """Check the solve, the projection and the dual, each by itself."""
    given, sign = _given(case), -1 if info["choices"]["dual"] == "minus" else 1
    F, G, H, U, rho = (given[name] for name in ("F", "G", "H", "U", "rho"))
    shape, kinds = loops.shape_of(F), [_arithmetic(info).real]
    T, new, dual = (_result(name, out[name], shape, kinds) for name in "THU")
    U, dual = (_each(lambda x: sign * x, one) for one in (U, dual))
    # ||B - T S|| <= ((1 + gamma_4) (1 + s) - 1) (|| |B| || + ||T|| ||S||)  :eq:`conformance-step`
    # with B = F + rho (H + U), S = G + rho I; |U' - (U + H' - T)| <= gamma_2 (|U| + |H'| + |T|)
    S = _plus_diagonal(G, [rho] * len(G))
    residual = _each(lambda f, h, u, ts: f + rho * (h + u) - ts, F, H, U, loops.matmul(T, S))
    parts = _each(lambda f, h, u: abs(f) + rho * (abs(h) + abs(u)), F, H, U)
    size = _norm(parts) + _norm(T) * _norm(S)
    growth = (1 + _growth(4, info)) * (1 + _solving(len(G), info)) - 1
    usual = _growth(_USUAL * len(G), info) * size
    checks = [_Check("T: residual of the solve", _norm(residual), growth * size, usual)]
    for t, u, h, v in zip(*map(flat_numbers, (T, U, new, dual)), strict=True):
        wrong = _misplaced(t, u, h, given["scale"], case, info)
        checks.append(_Check(wrong, Fraction(wrong != ""), Fraction(0)))
        bound = _growth(2, info) * (abs(u) + abs(h) + abs(t))
        checks.append(_Check("U: as the dual of the own T and H", abs(v - (u + h - t)), bound))
    return _verdict(checks)


def _misplaced(t: Any, u: Any, h: Any, scale: Fraction, case: Case, info: Info) -> str:
    """Say what is wrong with ``h`` as the projection of ``t - u``, if anything."""
    low, high, unit = case["options"]["qmin"], case["options"]["qmax"], max(_arithmetic(info)[:3])
    code = round(h / scale)
    if not low <= code <= high or abs(h - code * scale) > 2 * unit * abs(code * scale):
        return f"H: {float(h):.9g} is not on the grid"
    first, last = (min(max(k, low), high) for k in _nearest(t, u, scale, info))
    near = f"(T - U) / scale = {float((t - u) / scale):.9g}"
    return "" if first <= code <= last else f"H: code {code} is not the nearest one to {near}"


def _nearest(t: Fraction, u: Fraction, scale: Fraction, info: Info) -> tuple[int, int]:
    """Return the lowest and the highest code for ``(t - u) / scale``."""
    inputs, _, unit, _ = _arithmetic(info)
    v, choices, power = t - u, info["choices"], scale.numerator & (scale.numerator - 1) == 0
    odd = v.numerator // (v.numerator & -v.numerator or 1)
    if abs(odd) * unit <= 1 and power and not inputs:  # nothing was rounded before
        return 2 * (loops.rounded(v / scale, choices["rounding"]),)
    unit = max(unit, Fraction(choices["division"] == "float32", 2**24))
    # |code - v / s| <= 1/2 + 5 u |v| / s + u' (|t| + |u|) / s  :eq:`conformance-nearest`
    band = (5 * unit * abs(v) + inputs * (abs(t) + abs(u))) / scale + Fraction(1, 2)
    return ceil(v / scale - band), floor(v / scale + band)


# --- EPC ------------------------------------------------------------------------------------------


def _epc_update(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the error obeys its bound, and that no smaller components do."""
    given, mode = _given(case), case["options"]["mode"]
    X, factors = given["X"], given["factors"]
    A = _result("A", out["A"], loops.shape_of(factors[mode]), [_arithmetic(info).real])
    M, K = _problem(X, factors, mode)
    F, G, square = loops.matmul(M, K), loops.gram(factors, mode), _square(X)
    lengths = [G[r][r] for r in range(len(G))]

    def components(B: Matrix) -> Fraction:
        return sum((g * b * b for row in B for g, b in zip(lengths, row, strict=True)), Fraction(0))

    least = loops.solve(G, F)
    tau = case["out"]["tau"]
    best = _each(lambda _: Fraction(0), F)
    if tau is not None:
        best = loops.solve(_plus_diagonal(G, [Fraction(tau) * g for g in lengths]), F)
    # e(A) <= delta^2 + eta, eta = (gamma_n + 8 t) (||X|| + sqrt(R c(A_0)))^2  :eq:`conformance-epc`
    # c(A) <= (1 + gamma_n) ((1 - theta) c(A_tau) + theta c(A_0))
    # 1 - theta = sqrt(1 - eta / (delta^2 - e(A_0))); c: squared component norms, A_0: least error
    size = (_norm(X) + _root(len(G) * components(least))) ** 2
    evaluation = _growth(_error_steps(loops.shape_of(X), len(G)), info)
    noise = (evaluation + 8 * _normal_growth(factors, mode, info)) * size
    allowed = given["delta"] ** 2
    room = allowed - loops.partial_error(F, G, least, square)
    share = 1 - _root(1 - noise / room) if noise < room else Fraction(1)
    tighter = (1 - share) * components(best) + share * components(least)
    bound = tighter * (1 + evaluation) - components(best)
    excess = loops.partial_error(F, G, A, square) - allowed
    more = components(A) - components(best)
    return _verdict([
        _Check("squared error above delta^2", max(excess, Fraction(0)), noise),
        _Check("squared component norms above the least", max(more, Fraction(0)), bound),
    ])  # fmt: skip


# --- one factor in codes --------------------------------------------------------------------------


def _refit_scale(case: Case, out: Any, info: Info) -> Judgement:
    """Check that the error is stationary in the scale up to rounding."""
    # |s <V G, V> - <F, V>| <= gamma_n (<|F|, |V|> + |s| <|V| |G|, |V|>)  :eq:`conformance-refit`
    given, scale = _given(case), _result("scale", out["scale"], (), [_arithmetic(info).real])
    parts = [given[name] for name in ("F", "G", "codes")]
    upper, lower = _along(*parts)
    above, below = _along(*(_each(abs, part) for part in parts))
    rows, rank = loops.shape_of(given["F"])
    bound = _growth((rows + rank) * (rank + 1) + 2, info) * (above + abs(scale) * below)
    return _verdict([_Check("slope of the error", abs(scale * lower - upper), bound)])


def _along(F: Matrix, G: Matrix, V: Matrix) -> tuple[Fraction, Fraction]:
    """Return ``<F, V>`` and ``<V G, V>``, whose quotient is the best scale :eq:`rows-scale`."""
    F, G, V = flat_numbers(F), flat_numbers(loops.matmul(V, G)), flat_numbers(V)
    return sum(map(mul, F, V), Fraction(0)), sum(map(mul, G, V), Fraction(0))


def _closest_rows(case: Case, out: Any, _: Info) -> Judgement:
    """Check each row's objective against the least one, exactly."""
    # v G v^T - 2 f v^T / s <= min over v'  :eq:`conformance-closest`
    given = _given(case)
    V = _result("codes", out["codes"], loops.shape_of(given["F"]), _INTEGERS)
    _refuse_outside(flat_numbers(V), case)
    checks = []
    for i, (row, v, least) in enumerate(zip(given["F"], V, case["out"]["least"], strict=True)):
        f = [x / given["scale"] for x in row]
        more = loops.row_objective(f, given["G"], v) - Fraction(least)
        checks.append(_Check(f"row {i}: {more} above the least objective", more, Fraction(0)))
    return _verdict(checks)


def _refuse_outside(codes: Sequence[Fraction], case: Case) -> None:
    low, high = case["options"]["qmin"], case["options"]["qmax"]
    wrong = min(codes) < low or max(codes) > high
    _refuse(wrong, "wrong-value", f"codes: outside {low} to {high}")


# --- whole runs -----------------------------------------------------------------------------------


def _error_steps(shape: Sequence[int], rank: int) -> int:
    """Count roundings on the way to an error, by :eq:`als-error` or by the difference."""
    return 2 * prod(shape) + (rank + 1) * (sum(shape) + rank) + 6 * len(shape)


def _run(X: Any, factors: Sequence[Matrix], error: Fraction, info: Info) -> Judgement:
    """Check that the error is the true one and not above that of zero."""
    # |eps^2 ||X||^2 - ||X - Y||^2| <= eta and ||X - Y||^2 <= ||X||^2 + eta  :eq:`conformance-run`
    # eta = 2 gamma_n sum (|X| + |Y|_abs)^2, |Y|_abs made of absolute values of the factors
    shape, rank = loops.shape_of(X), len(factors[0][0])
    sizes = loops.reconstruct([_each(abs, A) for A in factors])
    size = sum((abs(loops.at(X, i)) + loops.at(sizes, i)) ** 2 for i in loops.indices(shape))
    steps = _error_steps(shape, rank) + 2 * sum(shape) + 12 * len(shape)
    noise, square = 2 * _growth(steps, info) * size, _square(X)
    left = loops.squared_error(X, factors)
    checks = [
        _Check("error: not that of the factors", abs(error * abs(error) * square - left), noise),
        _Check("error: above that of zero", max(left - square, Fraction(0)), noise),
    ]
    return _verdict(checks, f"relative error {float(_root(left / square)):.4f}")


def _cp_als(case: Case, out: Any, info: Info) -> Judgement:
    X, rank = _given(case)["X"], case["options"]["rank"]
    shapes = [(side, rank) for side in loops.shape_of(X)]
    factors = _results("factors", out["factors"], shapes, [_arithmetic(info).real])
    return _run(X, factors, _result("error", out["error"], (), _FLOATS), info)


def _ao_admm(case: Case, out: Any, info: Info) -> Judgement:
    X, options = _given(case)["X"], case["options"]
    shapes = [(side, options["rank"]) for side in loops.shape_of(X)]
    codes = _results("codes", out["codes"], shapes, _INTEGERS)
    if isinstance(out["scales"], list):
        scales = _results("scales", out["scales"], [()] * len(codes), _FLOATS)
    else:
        scales = _result("scales", out["scales"], (len(codes),), _FLOATS)
    _refuse(min(scales) <= 0, "wrong-value", "scales: expected numbers above 0")
    _refuse_outside(flat_numbers(codes), case)
    pairs = zip(codes, scales, strict=True)
    factors = [[[k * scale for k in row] for row in part] for part, scale in pairs]
    return _run(X, factors, _result("error", out["error"], (), _FLOATS), info)


def _guarded(certificate: Callable[[Case, Any, Info], Judgement]) -> Callable[..., Judgement]:
    def judged(case: Case, out: Any, info: Info) -> Judgement:
        try:
            return certificate(case, out, info)
        except _Refused as refusal:
            return Judgement(*refusal.args)

    return judged


_ALL = {
    "choose_scale": _scale, "balance": _balance, "als_update": _als_update,
    "als_sweep": _als_sweep, "admm_step": _admm_step, "epc_update": _epc_update,
    "cp_als": _cp_als, "ao_admm": _ao_admm, "refit_scale": _refit_scale,
    "closest_rows": _closest_rows,
}  # fmt: skip
CERTIFICATES: dict[str, Callable[[Case, Any, Info], Judgement]]
CERTIFICATES = {name: _guarded(certificate) for name, certificate in _ALL.items()}

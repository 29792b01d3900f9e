"""Which questions are asked of solvers? Cases that are judged by certificates.

Most inputs are small integers: exact in any type. Where a mistake shows only in double precision (a
nearly singular system, say) the case needs 'float64'.

Checked by tests/conformance/cases/test_kit_solvers.py.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import isqrt
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.cases.make import Case, coded, make

__all__ = ["families", "minimiser"]

_ONE = Fraction(1)
_I4, _I8 = (-8, 7), (-128, 127)


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the name and the cases of each family of solvers."""
    yield "best_scale", [*_scales()]
    yield "balance", [*_balances()]
    yield "als", [*_updates(), *_orders(), *_singular_and_swamps(), *_sweeps(), *_degenerate()]
    yield "admm", [*_exact_steps(), *_ties_and_ends(), *_other_steps()]
    yield "epc", [*_corrections()]


def _cert(
    name: str, says: str, flag: str, inputs: Any, options: Any = None, needs: Any = (), **data: Any
) -> Case:
    """Make a case of the operation that the name begins with; ``data`` is for its certificate."""
    op, _, rest = name.partition(".")
    out = {"kind": "cert", "name": op, **data}
    case = make(op, rest, says, [flag], inputs, options, out=out)
    return case | {"needs": sorted({*case["needs"], *needs})}


def _times(X: Any, factor: Any) -> Any:
    return [_times(part, factor) for part in X] if isinstance(X, list) else X * factor


def _plus(X: Any, Y: Any) -> Any:
    return [_plus(*pair) for pair in zip(X, Y, strict=True)] if isinstance(X, list) else X + Y


def _drawn(name: str, shape: Sequence[int], rank: int) -> dict[str, Any]:
    """Return a tensor and factors for it, by the name of the case."""
    factors = [coded(f"{name}.{n}", side, rank, top=5) for n, side in enumerate(shape)]
    return {"X": coded(name, *shape, top=9), "factors": factors}


# --- scales ---------------------------------------------------------------------------------------


def _scales() -> Iterator[Case]:
    for name, x, bits, narrow, says in (
        ("normal", coded("normal", 12, top=40), 4, False, "twelve numbers on 16 levels"),
        ("matrix", coded("matrix", 3, 4, top=90), 3, False, "a matrix has one scale"),
        ("eight-bits", coded("eight-bits", 6, top=999), 8, False, "many levels, few numbers"),
        ("narrow", coded("narrow", 8, top=20), 3, True, "no lowest code"),
        ("two-bits", coded("two-bits", 7, top=20), 2, False, "an asymmetric range"),
        ("outlier", [1, 1, 1, 1, -1, 1, -1, 1, 6], 2, True, "clipping one number is best"),
        ("clusters", [4, 4, 4, -4, 4, 4, 9, -9, 9], 2, True, "two minima, one of them lower"),
        ("negative", [-3, -5, -7, -9], 3, False, "no positive number"),
        ("single", [5], 4, False, "one number is met exactly, by several scales"),
        ("zero", [0, 0, 0], 4, False, "any scale above 0 will do"),
    ):
        grid, entries = {"bits": bits, "narrow": narrow}, _times(x, _ONE)
        scale = loops.choose_scale(entries, grid)
        fitted = loops.dequantize(loops.quantize(entries, grid, scale), -scale)
        error = _plus(entries, fitted)
        places = loops.indices(loops.shape_of(x))
        data = {"least": str(sum(loops.at(error, index) ** 2 for index in places))}
        low, high, _ = loops.code_range(bits, narrow)
        options = {"qmin": low, "qmax": high, "rule": "mse"}
        yield _cert(f"choose_scale.mse.{name}", says, "LocalMinimum", {"x": x}, options, **data)


def _balances() -> Iterator[Case]:
    A, B, C = (coded(f"balance.{n}", side, 2, top=5) for n, side in enumerate((3, 4, 2)))
    matrix = [coded("balance.rows", 5, 3, top=5), coded("balance.columns", 2, 3, top=5)]
    apart = [_times(A, 2**10), _times(B, Fraction(1, 2**10)), C]
    for name, factors, weights, says in (
        ("lengths", apart, None, "columns of unequal length"),
        ("weights", [A, B, C], [-8, 3], "a negative weight goes to one factor, with its sign"),
        ("zero-column", [[[0, 1], [0, 2], [0, -2]], B, C], [1, -2], "a component that is zero"),
        ("matrix", matrix, [4, -1, 9], "two modes: square roots"),
    ):
        yield _cert(f"balance.{name}", says, "LostNorm", {"factors": factors, "weights": weights})


# --- least squares --------------------------------------------------------------------------------


def _updates() -> Iterator[Case]:
    for name, shape, rank, mode, scale, says in (
        ("first", (3, 4, 2), 2, 0, 1, "the first mode"),
        ("middle", (3, 4, 2), 2, 1, 1, "a mode between others: the order of the columns"),
        ("last", (3, 4, 2), 2, 2, 1, "the last mode"),
        ("cube", (3, 3, 3), 3, 1, 1, "equal sides: a wrong mode is no error of shape"),
        ("rank-one", (2, 3, 4), 1, 2, 1, "one component"),
        ("side-one", (1, 4, 3), 2, 0, 1, "a mode of one row"),
        ("matrix", (4, 5), 3, 0, 1, "two modes"),
        ("four", (2, 3, 2, 3), 3, 2, 1, "four modes"),
        ("large", (3, 4, 2), 2, 1, 2**40, "nothing absolute is added: large numbers"),
        ("small", (3, 4, 2), 2, 1, Fraction(1, 2**40), "nothing absolute is added: small numbers"),
    ):
        given = _drawn(name, shape, rank)
        given["X"] = _times(given["X"], scale)
        flag = "NormalEquations" if rank > 1 else "Sanity"
        yield _cert(f"als_update.{name}", says, flag, given, {"mode": mode})


def _orders() -> Iterator[Case]:
    """Yield updates of every mode of tensors with two to five modes."""
    for shape in ((3, 4), (2, 3, 2), (2, 3, 2, 3), (2, 1, 3, 2, 2)):
        for mode in range(len(shape)):
            name, options = f"order-{len(shape)}.mode-{mode}", {"mode": mode}
            says = f"mode {mode} of {len(shape)}"
            yield _cert(
                f"als_update.{name}", says, "NormalEquations", _drawn(name, shape, 2), options
            )


# How the factors of two components become degenerate, and which mistakes that shows.
_DEGENERATE = {
    "parallel": ("components in one direction", lambda row: [row[0], -row[0]]),
    "zero-column": ("a component that is zero", lambda row: [0, row[1]]),
    "zero": ("all other factors are zero", lambda row: [0 * row[0], 0 * row[1]]),
}


def _degenerate() -> Iterator[Case]:
    """Yield singular Gram matrices and zero tensors, for orders and modes; any minimiser will do."""
    for shape in ((3, 4), (2, 3, 2), (2, 3, 2, 2)):
        order = len(shape)
        for kind, (says, change) in _DEGENERATE.items():
            name = f"{kind}.order-{order}"
            given = _drawn(name, shape, 2)
            given["factors"] = [[*map(change, A)] for A in given["factors"]]
            more: dict[str, Any] = {"needs": ["rank-deficient"]}
            options = {"mode": order - 1}
            yield _cert(f"als_update.{name}", says, "SingularGram", given, options, **more)
            yield _cert(f"als_sweep.{name}", says, "SingularGram", given, **more)
        name, says = f"zero-tensor.order-{order}", "a tensor of zeros: zero factors"
        given = _drawn(name, shape, 2)
        given["X"] = _times(given["X"], 0)
        yield _cert(f"als_update.{name}", says, "NormalEquations", given, {"mode": order - 1})
        yield _cert(f"als_sweep.{name}", says, "SingularGram", given, needs=["rank-deficient"])


def minimiser(G: Any, F: Any) -> Any:
    """Solve ``A G = F`` for a Gram matrix that may be singular: where nothing is left, zero."""
    kept: list[int] = []
    for r in range(len(G)):
        block = [[Fraction(G[p][q]) for q in (*kept, r)] for p in (*kept, r)]
        if _determinant(block):
            kept.append(r)
    if not kept:
        return [[_ONE * 0 for _ in row] for row in F]
    block = [[Fraction(G[p][q]) for q in kept] for p in kept]
    found = loops.solve(block, [[row[q] for q in kept] for row in F])
    places = {r: k for k, r in enumerate(kept)}
    return [[row[places[r]] if r in places else 0 * _ONE for r in range(len(G))] for row in found]


def _determinant(M: Any) -> Fraction:
    if not M:
        return _ONE
    minors = ([row[:c] + row[c + 1 :] for row in M[1:]] for c in range(len(M)))
    return sum(
        ((-1) ** c * M[0][c] * _determinant(minor) for c, minor in enumerate(minors)), 0 * _ONE
    )


def _singular_and_swamps() -> Iterator[Case]:
    given = _drawn("singular", (3, 4, 2), 2)
    A, B, C = given["factors"]
    parallel = [A, *([[row[0], 2 * row[0]] for row in X] for X in (B, C))]
    for name, factors, says in (
        ("parallel", parallel, "two components in one direction: any minimiser will do"),
        ("zero-column", [A, B, [[row[0], 0] for row in C]], "a zero component: any minimiser"),
    ):
        changed, needs = given | {"factors": factors}, ["rank-deficient"]
        yield _cert(f"als_update.{name}", says, "SingularGram", changed, {"mode": 0}, needs)
    for bits in (9, 12):
        # Columns that are nearly equal in two modes, and a tensor that moderate factors fit.
        step, noise = Fraction(1, 2**bits), coded("noise", 3, 4, 2)
        near = [[[4 + i + step * b for b in row] for i, row in enumerate(X)] for X in (B, C)]
        X = _plus(loops.reconstruct([A, *near]), _times(noise, Fraction(1, 2**10)))
        changed, says = {"X": X, "factors": [A, *near]}, "nearly parallel components"
        yield _cert(f"als_update.swamp-{bits}", says, "Swamp", changed, {"mode": 0}, ["float64"])


def _sweeps() -> Iterator[Case]:
    for name, shape, rank, says in (
        ("cube", (3, 3, 3), 2, "each update uses the new factors before it"),
        ("oblong", (4, 2, 3), 2, "unequal sides"),
        ("matrix", (4, 3), 2, "two modes"),
        ("four", (2, 3, 2, 2), 2, "four modes"),
    ):
        yield _cert(f"als_sweep.{name}", says, "GaussSeidel", _drawn(f"sweep.{name}", shape, rank))


# --- ADMM -----------------------------------------------------------------------------------------


def _step(name: str, says: str, flag: str, ends: Sequence[int], *arrays: Any) -> Case:
    options = {"qmin": ends[0], "qmax": ends[1]}
    return _cert(f"admm_step.{name}", says, flag, arrays, options)


def _diagonal(*entries: Any) -> Any:
    return [[a * (r == s) for s in range(len(entries))] for r, a in enumerate(entries)]


def _exact_steps() -> Iterator[Case]:
    """Diagonal systems with powers of two: no number is rounded, unless the weight is extreme."""
    F, H, U = (coded(f"exact.{letter}", 3, 2, top=20) for letter in "FHU")
    zero, half = _times(H, 0), Fraction(1, 2)
    for name, diagonal, rho, h, u, says in (
        ("plain", (3, 7), 1, H, U, "all parts of a step"),
        ("weight-4", (4, 12), 4, H, U, "the weight enters three times"),
        ("weight-half", (half, 15 * half), half, H, U, "a weight below 1"),
        ("no-dual", (2, 6), 2, H, zero, "a dual of zero"),
        ("cold", (2, 6), 2, zero, zero, "the first step of all"),
        ("only-dual", (6, 2), 2, zero, U, "the dual alone"),
        ("tiny-weight", (1, 4), Fraction(1, 2**20), H, U, "hardly any pull"),
        ("huge-weight", (1, 4), 2**20, H, U, "hardly anything but pull"),
        ("one-column", (3,), 1, H, U, "one component"),
    ):
        f, h_, u_ = ([row[: len(diagonal)] for row in X] for X in (F, h, u))
        G = _diagonal(*diagonal)
        yield _step(f"exact.{name}", says, "Dual", _I8, f, G, h_, u_, rho, half)


def _ties_and_ends() -> Iterator[Case]:
    """With G + rho I = 4 I, rho = 1 and H = 0, T - U is (F - 3 U) / 4."""
    G, half, zero, odd = _diagonal(3, 3), Fraction(1, 2), [[0, 0]] * 3, [[2, 3], [-1, 4], [0, -7]]
    middles = [[half, -half], [3 * half, -3 * half], [5 * half, -5 * half]]
    far = [[90, -90], [31, -33], [29, -31]]
    for name, wanted, u, scale, ends, says in (
        ("ties", middles, zero, 1, _I8, "halves of both signs and parities"),
        ("ties-dual", middles, odd, 1, _I8, "halves, with a dual"),
        ("ties-quarter", _times(middles, half / 2), odd, half / 2, _I4, "halves of a quarter"),
        ("ends", far, zero, 4, _I4, "beyond and at both ends"),
        ("ends-dual", far, odd, 4, _I4, "beyond both ends, with a dual"),
        ("narrow", far, zero, 4, (-7, 7), "no lowest code"),
        ("two-bits", _times(far, half / 8), odd, 1, (-2, 1), "four levels"),
    ):
        F = _plus(_times(wanted, 4), _times(u, 3))
        yield _step(name, says, "TieRounding", ends, F, G, zero, u, 1, scale)


def _other_steps() -> Iterator[Case]:
    F, H, U = (coded(f"other.{letter}", 4, 3, top=9) for letter in "FHU")
    K, eighth, half = coded("other.K", 5, 3, top=9), Fraction(1, 8), Fraction(1, 2)
    G, H, U = loops.gram([K]), _times(H, half), _times(U, half * eighth)
    rho = Fraction(sum(G[r][r] for r in range(3)), 4)
    f, h, u = ([row[:2] for row in X[:2]] for X in (F, H, U))
    for name, arrays, scale, ends, says in (
        ("dense", (_times(F, 4), G, H, U, rho), eighth, _I8, "a full Gram matrix"),
        ("coarse", (_times(F, 4), G, H, U, rho), half, _I4, "few levels"),
        ("odd-scale", (F, G, H, U, rho), 3 * half * eighth, _I4, "a scale unlike a power of two"),
        ("stays", (loops.matmul(H, G), G, H, _times(U, 0), rho), half, _I8, "solved on the grid"),
        ("singular", (f, [[4, 4], [4, 4]], h, u, 8), eighth, _I8, "the weight makes it regular"),
        ("row", (F[:1], G, H[:1], U[:1], rho), eighth, _I8, "one row"),
    ):
        yield _step(name, says, "DenseStep", ends, *arrays, scale)


# --- EPC ------------------------------------------------------------------------------------------


def _corrections() -> Iterator[Case]:
    """Yield columns of whole length, so that the exact solution needs no square roots."""
    B, C, D = [[1, 2, 0], [2, -1, 3], [2, 2, 4]], [[3, 4, 0], [4, -3, 2]], [[3], [4]]
    X, A = coded("epc", 4, 3, 2, top=9), coded("epc.factor", 4, 3, top=9)
    Y = [[[X[i][j][k] for k in range(2)] for i in range(4)] for j in range(3)]
    S = [[3 * i, 4 * i + 1] for i in range(5)]
    for name, tensor, factors, mode, share, says in (
        ("normal", X, [A, B, C], 0, (1, 4), "three components of unequal length"),
        ("tight", X, [A, B, C], 0, (1, 64), "hardly more than the least error"),
        ("loose", X, [A, B, C], 0, (7, 8), "a large bound"),
        ("middle", Y, [B, A, C], 1, (1, 2), "a mode between others"),
        ("small", _times(X, Fraction(1, 64)), [A, B, C], 0, (1, 2), "errors below 1"),
        ("matrix", S, [[[1]] * 5, D], 0, (1, 3), "two modes"),
        ("zero", X, [A, B, C], 0, None, "the zero factor obeys the bound"),
    ):
        delta, tau = _bound(tensor, factors, mode, share)
        given = {"X": tensor, "factors": factors, "delta": delta}
        yield _cert(f"epc_update.{name}", says, "Components", given, {"mode": mode}, tau=tau)
    yield from _other_corrections(X)
    # Half of the exact factor (length 3, times a column of length 5) leaves the error 7.5.
    given = {"X": loops.matmul([[1], [2], [2]], [[3, 4]]), "delta": Fraction(15, 2)}
    given["factors"] = [[[Fraction(1, 2)], [1], [1]], D]
    says = "the present factor is the best one"
    yield _cert("epc_update.stays", says, "Components", given, {"mode": 0}, tau="1")


def _other_corrections(X: Any) -> Iterator[Case]:
    """Yield every mode of two to four, degenerate factors, a zero tensor."""
    columns = B, C, _ = [[1, 2], [2, -1], [2, 2]], [[3, 4], [4, -3]], [[3, 0], [4, 5]]
    for order in (2, 3, 4):
        for mode in range(order):
            name, others = f"order-{order}.mode-{mode}", columns[: order - 1]
            A = coded(f"epc.{name}.factor", 2, 2, top=9)
            factors = [*others[:mode], A, *others[mode:]]
            tensor = coded(f"epc.{name}", *map(len, factors), top=9)
            yield _correction(name, f"mode {mode} of {order}", tensor, factors, mode)
    A = coded("epc.factor-2", 4, 2, top=9)
    for name, (says, change) in _DEGENERATE.items():
        if name != "zero":
            factors = [A, *([*map(change, one)] for one in (B, C))]
            case = _correction(f"singular.{name}", says, X, factors, 0)
            yield case | {"needs": sorted({*case["needs"], "rank-deficient"})}
    says = "a zero tensor: the zero factor"
    for name, factors in (("three", [A, B, C]), ("matrix", [A[:2], B])):
        zero = loops.build([*map(len, factors)], lambda *_: 0)
        given = {"X": zero, "factors": factors, "delta": Fraction(1)}
        yield _cert(
            f"epc_update.zero-tensor.{name}", says, "Components", given, {"mode": 0}, tau=None
        )


def _correction(name: str, says: str, X: Any, factors: Any, mode: int) -> Case:
    delta, tau = _bound(X, factors, mode, (1, 3))
    given = {"X": X, "factors": factors, "delta": delta}
    return _cert(f"epc_update.{name}", says, "Components", given, {"mode": mode}, tau=tau)


def _bound(X: Any, factors: Any, mode: int, share: Any) -> tuple[Fraction, str | None]:
    """Return a bound of the error, a share of the way from least to all, and its parameter.

    The parameter is found in units of columns of length 1, and rounded down: it obeys the bound.
    """
    F, G = loops.mttkrp(X, factors, mode), loops.gram(factors, mode)
    square = sum(loops.at(X, index) ** 2 for index in loops.indices(loops.shape_of(X)))
    if share is None:
        return Fraction(isqrt(square) + 1), None
    least = loops.partial_error(F, G, minimiser(G, F), square)
    delta = Fraction(isqrt(int((least + Fraction(*share) * (square - least)) * 2**24)), 2**12)
    unit = [Fraction(1, isqrt(G[r][r]) or 1) for r in range(len(G))]
    G = [
        [g * a * b for g, b in zip(row, unit, strict=True)] for row, a in zip(G, unit, strict=True)
    ]
    F = [[f * a for f, a in zip(row, unit, strict=True)] for row in F]
    return delta, str(loops.epc_tau(F, G, square, delta**2, (Fraction(0), Fraction(2**10)), 60))

r"""How are certificates computed where nested lists of fractions are too slow?

The same properties as in ``certificates``, for recipes: whole matrices of Python integers, in steps
of one power of two, so that nothing is rounded here either. A factor is held to
:eq:`conformance-gradient` row by row, which its proof allows, so that no row hides among many.

Checked by tests/conformance/judging/test_large.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcp_ref.conformance.judging.checks import (
    Case,
    Check,
    Info,
    declared,
    error_steps,
    forming_growth,
    growth,
    guarded,
    read_result,
    read_results,
    root,
    verdict,
)
from qcp_ref.conformance.judging.verdict import Judgement

__all__ = ["LARGE"]


class _Array(NamedTuple):
    """An array of Python integers ``m``, in steps of ``2**e``."""

    m: NDArray[Any]
    e: int

    def __matmul__(self, other: "_Array") -> "_Array":
        return _Array(np.asarray(self.m @ other.m, object), self.e + other.e)

    def __sub__(self, other: "_Array") -> "_Array":
        e = min(self.e, other.e)
        return _Array(np.asarray((self.m << (self.e - e)) - (other.m << (other.e - e))), e)

    def times(self, other: "_Array") -> "_Array":
        return _Array(np.asarray(self.m * other.m, object), self.e + other.e)

    def total(self) -> Fraction:
        """Return the sum of all entries."""
        return Fraction(int(np.sum(self.m))) * Fraction(2) ** self.e

    def square(self) -> Fraction:
        """Return the sum of the squares of all entries."""
        return self.times(self).total()

    def rows(self) -> list["_Array"]:
        return [_Array(row, self.e) for row in self.m]

    def size(self) -> "_Array":
        return _Array(np.abs(self.m), self.e)

    @property
    def t(self) -> "_Array":
        return _Array(self.m.T, self.e)


def _read(part: Any) -> Any:
    if isinstance(part, list):
        return [_read(one) for one in part]
    if part is None:
        return None
    m = np.array([0 if m == "-0" else int(m) for m in part["m"]], object)
    return _Array(m.reshape(part["s"]), part["e"])


def _result(name: str, part: Any, shape: Sequence[int], info: Info) -> _Array:
    """Read one array of the result, if it has the shape and the type."""
    found: _Array = read_result(name, part, shape, [declared(info).real], _read)
    return found


def _results(name: str, parts: Any, like: Sequence[_Array], info: Info) -> list[_Array]:
    return read_results(name, parts, [A.m.shape for A in like], [declared(info).real], _read)


def _worst(checks: Iterable[Check]) -> Judgement:
    """Return the verdict on the worst of several checks."""
    return verdict(sorted(checks, key=lambda check: check.margin, reverse=True))


def _normal(factors: Sequence[_Array], mode: int, info: Info) -> Fraction:
    sides = [len(A.m) for n, A in enumerate(factors) if n != mode]
    return forming_growth(sides, factors[0].m.shape[1], info)


# --- tensors --------------------------------------------------------------------------------------


def _khatri_rao(factors: Sequence[_Array]) -> _Array:
    def product(A: _Array, B: _Array) -> _Array:
        both = A.m[:, None] * B.m  # (I, J, R)
        return _Array(both.reshape(-1, A.m.shape[1]), A.e + B.e)

    return reduce(product, factors)


def _problem(X: _Array, factors: Sequence[_Array], mode: int) -> tuple[_Array, _Array]:
    """Return ``M`` and ``K`` of ``min norm(M - A K^T)``."""
    M = np.moveaxis(X.m, mode, 0).reshape(X.m.shape[mode], -1)
    return _Array(M, X.e), _khatri_rao([A for n, A in enumerate(factors) if n != mode])


def _gradient(
    X: _Array, factors: Sequence[_Array], mode: int, A: _Array, info: Info
) -> Iterator[Check]:
    # norm((m - a K^T) K) <= t norm(K) (norm(m) + norm(a) norm(K)) for each row a of A
    M, K = _problem(X, factors, mode)
    t, size = _normal(factors, mode, info), root(K.square())
    found = ((M - A @ K.t) @ K).rows()
    for i, (gradient, m, a) in enumerate(zip(found, M.rows(), A.rows(), strict=True)):
        bound = t * size * (root(m.square()) + root(a.square()) * size)
        yield Check(f"gradient of mode {mode}, row {i}", root(gradient.square()), bound)


def _als_update(case: Case, out: Any, info: Info) -> Judgement:
    given, mode = {name: _read(part) for name, part in case["in"].items()}, case["options"]["mode"]
    A = _result("A", out["A"], given["factors"][mode].m.shape, info)
    return _worst(_gradient(given["X"], given["factors"], mode, A, info))


def _als_sweep(case: Case, out: Any, info: Info) -> Judgement:
    """Judge each factor given the own ones before it and the old ones after it."""
    X, old = (_read(case["in"][name]) for name in ("X", "factors"))
    new = _results("factors", out["factors"], old, info)
    mixed = ([*new[:n], *old[n:]] for n in range(len(new)))
    found = (_gradient(X, mix, n, new[n], info) for n, mix in enumerate(mixed))
    return _worst(check for checks in found for check in checks)


def _epc_update(case: Case, out: Any, info: Info) -> Judgement:
    """Judge the case of orthogonal components and an exact tensor, :eq:`conformance-epc`.

    There ``A_tau = A_0 / (1 + tau)``, the least error is 0, and ``c(A_0) = norm(X)^2``.
    """
    X, factors, delta = (_read(case["in"][name]) for name in ("X", "factors", "delta"))
    mode, tau = case["options"]["mode"], Fraction(case["out"]["tau"])
    A = _result("A", out["A"], factors[mode].m.shape, info)
    M, K = _problem(X, factors, mode)
    F, G, square = M @ K, K.t @ K, X.square()
    lengths = _Array(np.diag(G.m), G.e)
    if np.count_nonzero(G.m) != np.count_nonzero(lengths.m):
        raise ValueError(f"{case['id']}: expected orthogonal components")
    components = A.times(A).times(lengths).total()
    error = square - 2 * F.times(A).total() + components
    rank, shape = A.m.shape[1], X.m.shape
    rate = growth(error_steps(shape, rank), info)
    # eta = (gamma_n + 8 t) (norm(X) + sqrt(R c(A_0)))^2, c <= (1 + gamma_n) (...)
    noise = (rate + 8 * _normal(factors, mode, info)) * (root(square) + root(rank * square)) ** 2
    allowed = delta.square()
    share = 1 - root(1 - noise / allowed) if noise < allowed else Fraction(1)
    best = square / (1 + tau) ** 2
    bound = ((1 - share) * best + share * square) * (1 + rate) - best
    over, more = (max(gap, Fraction(0)) for gap in (error - allowed, components - best))
    return _worst(
        [
            Check("squared error above delta^2", over, noise),
            Check("squared component norms above the least", more, bound),
        ]
    )


def _balance(case: Case, out: Any, info: Info) -> Judgement:
    """Check :eq:`conformance-balance`: the same tensor, equally long columns."""
    A, w = (_read(case["in"][name]) for name in ("factors", "weights"))
    new = _results("factors", out["factors"], A, info)
    weighted = [*A[:-1], A[-1] if w is None else A[-1].times(w)]
    rate = growth(2 * sum(len(one.m) + 2 for one in A) + 8 * len(A), info)

    def tensor(factors: Sequence[_Array]) -> _Array:
        return _khatri_rao(factors[:-1]) @ factors[-1].t

    off = (tensor(new) - tensor(weighted)).size()
    sizes = tensor([one.size() for one in weighted])
    unit = Fraction(2) ** (off.e - sizes.e)
    pairs = zip(off.m.ravel(), sizes.m.ravel(), strict=True)
    checks = [Check("tensor", unit * int(y), rate * int(g)) for y, g in pairs if y]
    for columns in zip(*(one.t.rows() for one in new), strict=True):
        lengths = [column.square() for column in columns]
        gap = max(lengths) - min(lengths)
        checks.append(Check("lengths of columns", gap, 3 * rate * max(lengths)))
    return _worst(checks)


def _refit_scale(case: Case, out: Any, info: Info) -> Judgement:
    # |s <V G, V> - <F, V>| <= gamma_n (<|F|, |V|> + |s| <|V| |G|, |V|>)  :eq:`conformance-refit`
    F, G, V = (_read(case["in"][name]) for name in ("F", "G", "codes"))
    scale = _result("scale", out["scale"], (), info).total()
    rows, rank = F.m.shape
    upper, lower = F.times(V).total(), (V @ G).times(V).total()
    F, G, V = F.size(), G.size(), V.size()
    size = F.times(V).total() + abs(scale) * (V @ G).times(V).total()
    bound = growth((rows + rank) * (rank + 1) + 2, info) * size
    return _worst([Check("slope of the error", abs(scale * lower - upper), bound)])


_ALL = {"als_update": _als_update, "als_sweep": _als_sweep, "epc_update": _epc_update,
        "balance": _balance, "refit_scale": _refit_scale}  # fmt: skip
LARGE = {name: guarded(certificate) for name, certificate in _ALL.items()}

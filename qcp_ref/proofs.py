r"""What does rounding leave of a proof?

A search in floating point that finds nothing better has proved nothing yet: what it compared were
rounded numbers, and the triangle that it went through is not exactly a root of the Gram matrix. But
both errors have bounds :eq:`proofs-margin`. A search that keeps everything within these bounds, not
only what looks best, cannot lose the best row :eq:`proofs-reach`; among the few that are left exact
integers decide :eq:`proofs-gain`. Lower bounds are rounded downwards by the same margins
:eq:`proofs-lower`.

This chapter has no public names: :mod:`qcp_ref.rows` and :func:`qcp_ref.search.certify` claim by it
what they prove.

Simplified: one margin for the whole box, not for each branch, so that with a Gram matrix formed in
float32 and many levels there can be more candidates than are worth looking at.

Checked by tests/test_proofs.py.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array
from qcp_ref.bounds import gamma
from qcp_ref.cp import CP, reconstruct
from qcp_ref.tensor import gram, mttkrp

__all__: list[str] = []

Box = tuple[float, float, float]
_SPARE = 1 + 2.0**-30  # covers the rounding of a margin itself


class Steps(NamedTuple):
    """A problem in steps of the scale, where levels are integers plus an offset, in a box."""

    F: Array
    G: Array
    box: Box  # lowest code, highest code, offset
    weight: Array  # of each row: what turns an objective in steps into one of the data


class Doubt(NamedTuple):
    """How far the entries of ``F`` and ``G``, in steps, may be from those that are meant."""

    F: Array
    G: Array


class Margin(NamedTuple):
    """What separates distances, row by row, from objectives: :eq:`proofs-margin`.

    ``near`` bounds the error of the root of a computed distance, ``wide`` that of the objective
    ``distance - size``, where ``size`` is at least ``||z||^2``; ``grown`` is a factor above 1 that
    covers the rounding of a sum of squares.
    """

    near: Array
    wide: Array
    size: Array
    grown: float


def margin(F: Array, G: Array, L: Array, z: Array, box: Box, doubt: Doubt) -> Margin:
    """Spell out :eq:`proofs-margin`; all columns stand in the order of ``L``."""
    g, most = gamma(2 * len(L) + 20), farthest_level(box)
    product = L @ L.T
    length = np.sqrt(np.maximum(np.diag(G), np.diag(product)))
    # E = G - L L^T and e = f - z L^T, each with the rounding of what is computed here
    E = np.abs(G - product) + g * (np.abs(G) + np.outer(length, length)) + doubt.G
    e = np.abs(F - z @ L.T) + g * (np.abs(F) + np.abs(z) @ np.abs(L).T) + doubt.F
    wide = (most**2 * E.sum() + 2 * most * e.sum(axis=1)) * _SPARE
    gaps = g * (np.abs(z) + most * np.abs(L).sum(axis=0))
    near = np.sqrt((gaps**2).sum(axis=1)) * _SPARE
    return Margin(near, wide, (z**2).sum(axis=1) * (1 + g), 1 + g)


def farthest_level(box: Box) -> float:
    """Return the largest size of a level, in steps."""
    low, high, offset = box
    return max(abs(low + offset), abs(high + offset))


def lowered(distance: Array, margin: Margin) -> Array:
    """Return what no objective is below, if no computed distance is: :eq:`proofs-lower`."""
    root = np.maximum(np.sqrt(distance) / margin.grown - margin.near, 0.0)
    spare = 2.0**-50 * (root**2 + margin.size + margin.wide)
    return np.asarray(root**2 - margin.size - margin.wide - spare)


def relaxed(least_squares: Array, nearest: Array, z: Array, L: Array, margin: Margin) -> Array:
    """Return what no objective is below, by the smallest curvature: :eq:`rows-bound`.

    ``least_squares`` need not be exact: its own error is subtracted.
    """
    g = gamma(2 * len(L) + 20)
    length = np.sqrt((L**2).sum(axis=1))
    curvature = least_eigenvalue(L @ L.T / np.outer(length, length))
    away = curvature * ((length * (least_squares - nearest)) ** 2).sum(axis=1) * (1 - g)
    wrong = np.abs(z - least_squares @ L) + g * (np.abs(z) + np.abs(least_squares) @ np.abs(L))
    root = np.maximum(np.sqrt(away) - np.sqrt((wrong**2).sum(axis=1)) * _SPARE, 0.0)
    exact = margin._replace(near=np.zeros_like(margin.near))
    return lowered(root**2 / _SPARE, exact)


def least_eigenvalue(unit: Array) -> float:
    """Return a number that the smallest eigenvalue is not below, 0 at least.

    For a semidefinite matrix of unit diagonal, its entries known to a few roundings. A Cholesky
    factorization that runs to its end proves that what it was given is positive, up to its own
    rounding: :eq:`proofs-eigenvalue`.
    """
    n = len(unit)
    noise = 4 * n * gamma(2 * n + 20)
    guess = float(np.linalg.eigvalsh(unit)[0]) - noise
    if guess <= noise:
        return 0.0
    try:
        np.linalg.cholesky(unit - guess * np.eye(n))
    except np.linalg.LinAlgError:
        return 0.0
    return guess - noise


def objectives(V: Array, F: Array, G: Array, doubt: Doubt) -> tuple[Array, Array]:
    """Return the objective of each row in steps, and a bound on its error: :eq:`bounds-sum`."""
    g = gamma(2 * len(G) + 20)
    slope = V @ G - 2 * F
    sizes = np.abs(V) @ (g * np.abs(G) + doubt.G) + 2 * (g * np.abs(F) + doubt.F)
    return (V * slope).sum(axis=1), (np.abs(V) * sizes).sum(axis=1) * _SPARE


class ExactRows:
    """The problem as it was given, in integers, to decide between rows without rounding."""

    def __init__(self, F: Array, G: Array, step: Array) -> None:
        self.F, self.G, self.step = F, G, np.broadcast_to(step, F.shape)

    def part(self, columns: NDArray[np.int64]) -> "ExactRows":
        """Return the problem of some columns."""
        square = np.ix_(columns, columns)
        return ExactRows(self.F[:, columns], self.G[square], self.step[:, columns])

    @cached_property
    def whole(self) -> tuple[NDArray[Any], int]:
        """The Gram matrix, whose integers all rows share."""
        return integers(self.G)

    def values(self, row: int, V: Array) -> NDArray[Any]:
        """Return the objectives of levels (in steps) of one row, up to a factor common to them.

        Four times the objective is ``m H m - 4 f s m`` with ``m = 2 v``, which is an integer, and
        ``H = s G s``. All numbers are brought to one power of two.
        """
        m = np.rint(2 * V).astype(np.int64).astype(object)
        G, g_unit = self.whole
        (f, f_unit), (s, s_unit) = integers(self.F[row]), integers(self.step[row])
        H, f = G * s * s[:, None], 4 * f * s
        shift = g_unit + s_unit - f_unit  # of H against f
        H, f = (H << max(shift, 0)), (f << max(-shift, 0))
        return np.asarray((m * (m @ H)).sum(axis=1) - m @ f)


def integers(x: Array) -> tuple[NDArray[Any], int]:
    """Return Python integers and the power of two that makes them the given floats, exactly."""
    mantissa, exponent = np.frexp(x)
    whole = np.ldexp(mantissa, 53).astype(np.int64).astype(object)
    nonzero = exponent[mantissa != 0]
    least = int(nonzero.min()) if nonzero.size else 0
    return whole << np.maximum(exponent - least, 0).astype(object), least - 53


def differences(
    V: Array, W: Array, F: Array, G: Array, doubt: Doubt
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return in which rows ``W`` surely has the larger objective, and in which the smaller one.

    Spells out :eq:`proofs-gain`.
    """
    g, change, total = gamma(2 * len(G) + 20), W - V, W + V
    above = (change * (total @ G - 2 * F)).sum(axis=1)
    sizes = np.abs(total) @ (g * np.abs(G) + doubt.G) + 2 * (g * np.abs(F) + doubt.F)
    noise = (np.abs(change) * sizes).sum(axis=1) * _SPARE
    return above > noise, above < -noise


def best_row(
    rows: Array, i: int, F: Array, G: Array, exact: ExactRows, doubt: Doubt
) -> tuple[int, bool]:
    """Return which of these levels of row ``i`` is the best, and whether that is certain.

    Differences decide where they exceed their rounding, and exact integers elsewhere; of equal rows
    the first is taken. Only doubt about the problem leaves it uncertain.
    """
    first = int(np.argmin((rows * (rows @ G - 2 * F[i])).sum(axis=1)))
    worse, _ = differences(rows[first], rows, F[i], G, Doubt(doubt.F[i], doubt.G))
    left = np.flatnonzero(~worse)
    if left.size == 1:
        return first, True
    values = exact.values(i, rows[left])
    certain = not (doubt.F.any() or doubt.G.any())
    return int(left[min(range(len(left)), key=values.__getitem__)]), certain


def search_tree(
    z: Array, L: Array, start: Array, box: Box, budget: int, slack: tuple[float, float, float]
) -> tuple[Array, float, float, int, Array]:
    """Search one row for its best levels: the readable form of the kernel ``sphere``.

    Depth first, nearest level first :eq:`rows-tree`; a branch is left when its distance exceeds
    what is within reach of the best one :eq:`proofs-reach`. Returns the row of least computed
    distance, that distance, the least distance of a branch that was left for want of budget
    (infinity if there was none), the number of nodes, and all rows within reach.
    """
    low, high, offset = box
    best, radius, left, nodes = start, float(((z - start @ L) ** 2).sum()), np.inf, 0
    found: list[tuple[float, Array]] = []

    def children(depth: int, v: Array, decided: float) -> Iterator[tuple[float, float]]:
        """Yield distances and levels, nearest first, that may be within reach, and some more."""
        centre = (z[depth] - v[depth + 1 :] @ L[depth + 1 :, depth]) / L[depth, depth]
        half = np.sqrt(max(reach(radius, slack) - decided, 0.0)) / L[depth, depth] + 1
        ends = np.clip([centre - half - offset, centre + half - offset], low, high)
        levels = np.arange(np.floor(ends[0]), np.ceil(ends[1]) + 1) + offset
        distances = decided + ((centre - levels) * L[depth, depth]) ** 2
        for i in np.argsort(distances, kind="stable"):
            yield float(distances[i]), levels[i]

    v = np.zeros_like(z)
    path = [children(len(z) - 1, v, 0.0)]  # from the root down to the present branch
    while path:
        depth = len(z) - len(path)
        distance, level = next(path[-1], (np.nan, 0.0))  # NaN is within no reach
        within = distance <= reach(radius, slack)
        full = nodes >= budget or (depth == 0 and len(found) == capacity(len(z)))
        if within and full:
            left = min(left, distance)
        if not within or full:
            v[depth] = 0.0
            path.pop()
            continue
        nodes += 1
        v[depth] = level
        if depth:
            path.append(children(depth - 1, v, distance))
            continue
        found.append((distance, v.copy()))
        if distance < radius:
            best, radius = v.copy(), distance
    kept = [v for distance, v in found if distance <= reach(radius, slack)]
    return best, radius, left, nodes, np.array(kept).reshape(-1, len(z))


def reach(radius: float, slack: tuple[float, float, float]) -> float:
    """Return the largest computed distance that a row no worse may have: :eq:`proofs-reach`."""
    near, wide, grown = slack
    most = np.sqrt(radius) * grown + near
    return float((np.sqrt(most * most + wide) * grown + near) ** 2 * grown)


def capacity(rank: int) -> int:
    """Return how many rows within reach are collected at most."""
    return max(2**18 // rank, 64)


# --- what F and G are off, and the floor ----------------------------------------------------------


def normal_doubt(X: Array, factors: list[Array], mode: int) -> Doubt:
    """Bound the rounding of MTTKRP and Gram matrix, and of the levels: :eq:`proofs-normal`."""
    g = gamma(X.size // X.shape[mode] + sum(X.shape) + 4 * X.ndim + 8) * _SPARE
    sizes = [np.abs(A) for A in factors]
    return Doubt(g * mttkrp(np.abs(X), sizes, mode), g * gram(sizes, mode))


def no_single_change(
    V: Array, steps: Steps, doubt: Doubt, slope: Callable[[int, int], Any]
) -> bool:
    """Whether no single level can be changed for the better :eq:`proofs-single`.

    What a step up or down gains is ``+-2 r - c`` with the residual ``r = f - v G`` and the
    curvature ``c``; the objective being convex, no longer way can gain if neither of them does.
    Where rounding leaves a doubt, ``slope`` says the exact ``r`` and ``c`` of an entry.
    """
    low, high, offset = steps.box
    g, curvature = gamma(2 * len(steps.G) + 20), np.diag(steps.G)
    residual = steps.F - V @ steps.G
    noise = 2 * (np.abs(V) @ (g * np.abs(steps.G) + doubt.G) + g * np.abs(steps.F) + doubt.F)
    noise = (noise + g * curvature + np.diag(doubt.G)) * _SPARE
    for way, free in ((1, V - offset < high), (-1, V - offset > low)):
        gain = np.where(free, way * 2 * residual - curvature, -np.inf)
        if (gain > noise).any():
            return False
        for i, r in np.argwhere(free & (gain > -noise)):
            exact, bend = slope(i, r)
            if way * 2 * exact > bend:
                return False
    return True


def exact_slopes(
    X: Array, levels: list[Array], steps: list[Array], mode: int
) -> Callable[[int, int], tuple[Fraction, Fraction]]:
    """Return a function that says residual and curvature of an entry, in steps, exactly."""
    unfolded, others = np.moveaxis(X, mode, 0), [n for n in range(X.ndim) if n != mode]
    wide = [np.broadcast_to(s, V.shape) for V, s in zip(levels, steps, strict=True)]

    def entry(n: int, i: int, r: int) -> Fraction:
        return Fraction(float(levels[n][i, r])) * Fraction(float(wide[n][i, r]))

    def gram_entry(q: int, r: int) -> Fraction:
        sums = (sum(entry(n, i, q) * entry(n, i, r) for i in range(len(levels[n]))) for n in others)
        return prod((Fraction(total) for total in sums), start=Fraction(1))

    def slope(i: int, r: int) -> tuple[Fraction, Fraction]:
        f = Fraction(0)
        for place in np.argwhere(unfolded[i]).tolist():
            factors = (entry(n, j, r) for n, j in zip(others, place, strict=True))
            f += Fraction(float(unfolded[(i, *place)])) * prod(factors, start=Fraction(1))
        used = np.flatnonzero(levels[mode][i]).tolist()
        own = (entry(mode, i, q) * gram_entry(q, r) for q in used)
        return f - sum(own), Fraction(float(wide[mode][i, r])) * gram_entry(r, r)

    return slope


def least_error(X: Array, factors: list[Array]) -> float:
    """Return what the norm of the error of a CP tensor is not below: :eq:`proofs-error`."""
    g = gamma(X.size + len(factors[0][0]) + 4 * X.ndim + 8)
    parts = reconstruct(CP([np.abs(A) for A in factors]))
    error, noise = np.linalg.norm(X - reconstruct(CP(factors))), np.linalg.norm(np.abs(X) + parts)
    return max(float(error * (1 - g) - g * noise * _SPARE), 0.0)


def least_tail(M: Array, rank: int) -> float:
    """Return what no matrix of this rank is nearer than: Eckart and Young, :eq:`proofs-floor`.

    Singular values are trusted only as far as the product of what was computed gives the matrix
    back, and the singular vectors are orthonormal.
    """
    U, values, Vt = np.linalg.svd(M, full_matrices=False)
    n, g = len(values), gamma(sum(M.shape) + 8)
    apart = [np.linalg.norm(Q @ Q.T - np.eye(n)) + g * n for Q in (U.T, Vt)]
    away = np.linalg.norm(M - (U * values) @ Vt)
    away += 4 * g * (np.linalg.norm(M) + n * np.linalg.norm(values))
    shrunk = np.sqrt(prod(max(1 - float(d) * _SPARE, 0.0) for d in apart))
    tail = float(np.linalg.norm(values[rank:]))
    return max(float(tail * shrunk * (1 - g) - away * _SPARE), 0.0)

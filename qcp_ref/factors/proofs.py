r"""What does rounding leave of a proof?

A search in floating point that finds nothing better has proved nothing yet: what it compared were
rounded numbers, and the triangle that it went through is not exactly a root of the Gram matrix. But
both errors have bounds :eq:`proofs-margin`. A search that keeps everything within these bounds, not
only what looks best, cannot lose the best row :eq:`proofs-reach`; among the few that are left exact
integers decide :eq:`proofs-gain`. Lower bounds are rounded downwards by the same margins
:eq:`proofs-lower`.

This chapter has no public names: :mod:`qcp_ref.factors.rows` and
:func:`qcp_ref.factors.search.certify` claim by it what they prove.

Simplified: one margin for the whole box, not for each branch, so that with a Gram matrix formed in
float32 and many levels there can be more candidates than are worth looking at.

Checked by tests/factors/test_proofs.py.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array
from qcp_ref._kernels import Box, Slack, can_compile, sphere
from qcp_ref.bounds import gamma_core
from qcp_ref.tensors.cp import reconstruct_core
from qcp_ref.tensors.tensor import gram_core, mttkrp_core

__all__: list[str] = []

_SPARE = 1 + 2.0**-30  # covers the rounding of a margin itself
_TOGETHER = 64  # rows that are searched at once without Numba


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
    """Return what separates distances from objectives; columns stand in the order of ``L``."""
    g, most = gamma_core(2 * len(L) + 20), farthest_level(box)
    product = L @ L.T
    length = np.sqrt(np.maximum(np.diag(G), np.diag(product)))
    # E = G - L L^T and e = f - z L^T, each with the rounding of what is computed here
    E = np.abs(G - product) + g * (np.abs(G) + np.outer(length, length)) + doubt.G
    e = np.abs(F - z @ L.T) + g * (np.abs(F) + np.abs(z) @ np.abs(L).T) + doubt.F
    # delta = m^2 sum |E| + 2 m sum |e|, a_i = g (|z_i| + m sum_r |L_ri|)  :eq:`proofs-margin`
    wide = (most**2 * E.sum() + 2 * most * e.sum(axis=1)) * _SPARE
    gaps = g * (np.abs(z) + most * np.abs(L).sum(axis=0))
    near = np.sqrt((gaps**2).sum(axis=1)) * _SPARE
    return Margin(near, wide, (z**2).sum(axis=1) * (1 + g), 1 + g)


def farthest_level(box: Box) -> float:
    """Return the largest size of a level, in steps."""
    low, high, offset = box
    return max(abs(low + offset), abs(high + offset))


def lowered(distance: Array, margin: Margin) -> Array:
    """Return what no objective is below, if no computed distance is."""
    # ((sqrt(D) / (1 + g) - alpha)_+)^2 - ||z||^2 - delta  :eq:`proofs-lower`
    root = np.maximum(np.sqrt(distance) / margin.grown - margin.near, 0.0)
    spare = 2.0**-50 * (root**2 + margin.size + margin.wide)
    return np.asarray(root**2 - margin.size - margin.wide - spare)


def relaxed(least_squares: Array, nearest: Array, z: Array, L: Array, margin: Margin) -> Array:
    """Return what no objective is below, by the smallest curvature: :eq:`rows-bound`.

    ``least_squares`` need not be exact: its own error is subtracted.
    """
    g = gamma_core(2 * len(L) + 20)
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
    noise = 4 * n * gamma_core(2 * n + 20)
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
    g = gamma_core(2 * len(G) + 20)
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
    """Return in which rows ``W`` surely has the larger objective, and in which the smaller one."""
    g, change, total = gamma_core(2 * len(G) + 20), W - V, W + V
    # q(w) - q(v) = sum_r h_r ((v + w) G - 2 f)_r, h = w - v  :eq:`proofs-gain`
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


class Found(NamedTuple):
    """What the search of a row's tree has come to.

    The row of least computed distance, that distance, the least distance of a branch that was left
    for want of nodes (infinity if there was none), the number of nodes, and all rows within reach.
    """

    best: Array
    distance: float
    left: float
    nodes: int
    rows: Array


def search_rows(
    z: Array, L: Array, start: Array, box: Box, most_nodes: int, slack: Slack
) -> Iterator[Found]:
    """Search row after row for its best levels: compiled, or else many rows at a time."""
    near, wide, grown = slack
    if can_compile():
        for i in range(len(z)):
            one = Slack(float(near[i]), float(wide[i]), grown)
            yield Found(*sphere(z[i], L, start[i], box, most_nodes, one))
        return
    for first in range(0, len(z), _TOGETHER):
        own = slice(first, first + _TOGETHER)
        reaches = Slack(near[own], wide[own], grown)
        yield from Trees(z[own], L, start[own], box, most_nodes, reaches).search()


class Trees:
    """The trees of some rows that share a triangle: the readable form of the kernel ``sphere``.

    Depth first, nearest level first :eq:`rows-tree`; a branch is left when its distance exceeds
    what is within reach of the best row known :eq:`proofs-reach`. Each row has a tree of its own.
    They are searched at once: each turn takes the next node of every tree.

    A table says what may come next. ``offer[i, r]`` is the distance that column ``r`` of row ``i``
    would have with its next level, under those that the columns after it have in ``V``; it is NaN,
    which is within no reach, if no level is left. The next node of a row is its first offer within
    reach. Offers before it are of branches that were left, which they are for good: reach shrinks.

    What else belongs to an entry is flat, at ``i * R + r``: the level that is offered, the centre,
    which is the best number for it, the distance of those after it, and how many levels it has
    taken.
    """

    def __init__(
        self,
        z: Array,
        L: Array,
        start: Array,
        box: Box,
        most_nodes: int,
        slack: Slack,
    ) -> None:
        rows, n = z.shape
        self.z, self.box, self.most_nodes, self.slack = z.ravel(), box, most_nodes, slack
        # Zeros at the diagonal and before it: levels of branches that were left do not count.
        self.diagonal, self.below = np.diag(L), np.tril(L, -1).T.copy()
        self.best, self.radius = start.copy(), ((z - start @ L) ** 2).sum(axis=1)
        self.limit, self.left = reach(self.radius, slack), np.full(rows, np.inf)
        self.nodes, self.count = np.zeros((2, rows), dtype=np.int64)
        self.found = np.empty((rows, min(capacity(n), most_nodes), n))
        self.distances = np.empty(self.found.shape[:2])
        self.V, self.offer = np.zeros((rows, n)), np.full((rows, n), np.nan)
        self.level, self.centre, self.decided, self.taken = np.empty((4, rows * n))
        self.first = np.arange(rows) * n
        self.enter(self.first + n - 1, np.zeros(rows))
        self.make_offers(self.first + n - 1)

    def search(self) -> Iterator[Found]:
        """Take nodes until no row has one within reach and within its number of nodes."""
        while True:
            within = self.offer <= self.limit[:, None]
            at = self.first + within.argmax(axis=1)
            at = at[within.ravel()[at] & (self.nodes < self.most_nodes)]
            if at.size == 0:
                break
            self.take(at)
        left = np.minimum(self.left, np.where(within, self.offer, np.inf).min(axis=1))
        for i, count in enumerate(self.count):
            ends = float(self.radius[i]), float(left[i]), int(self.nodes[i])
            yield Found(self.best[i], *ends, self.found[i, :count])

    def take(self, at: NDArray[np.int64]) -> None:
        """Take the levels that are offered at these entries, one of each row."""
        row, column = np.divmod(at, len(self.diagonal))
        distance, inner = self.offer.ravel()[at], column > 0
        self.V.ravel()[at] = self.level[at]
        self.taken[at] += 1
        self.nodes[row] += 1
        self.enter(at[inner] - 1, distance[inner])
        self.make_offers(np.concatenate([at, at[inner] - 1]))
        if not inner.all():
            self.end(row[~inner], distance[~inner])

    def enter(self, at: NDArray[np.int64], decided: Array) -> None:
        """Begin a branch: the best numbers for these entries, those after them being decided."""
        row, column = np.divmod(at, len(self.diagonal))
        others = np.vecdot(self.V[row], self.below[column])
        self.centre[at] = (self.z[at] - others) / self.diagonal[column]
        self.decided[at], self.taken[at] = decided, 0

    def make_offers(self, at: NDArray[np.int64]) -> None:
        """Offer the nearest level that each of these entries has not taken yet."""
        (low, high, _), centre, taken = self.box, self.centre[at], self.taken[at]
        self.level[at] = level = nearest_left(centre, taken, self.box)
        gap = (centre - level) * self.diagonal[at % len(self.diagonal)]
        inside = taken <= high - low
        self.offer.ravel()[at] = np.where(inside, self.decided[at] + gap**2, np.nan)

    def end(self, row: NDArray[np.int64], distance: Array) -> None:
        """Keep rows that are complete; where there is no room for more, it is a branch to leave."""
        full = self.count[row] == self.found.shape[1]
        self.nodes[row[full]] -= 1
        self.left[row[full]] = np.minimum(self.left[row[full]], distance[full])
        self.offer[row[full], 0] = np.nan
        row, distance = row[~full], distance[~full]
        self.found[row, self.count[row]] = self.V[row]
        self.distances[row, self.count[row]] = distance
        self.count[row] += 1
        for i in row[distance < self.radius[row]].tolist():
            self.improve(i)

    def improve(self, i: int) -> None:
        """Take the row that was found last for the best, and keep what is within its reach."""
        near, wide, grown = self.slack
        found, distances = self.found[i, : self.count[i]], self.distances[i, : self.count[i]]
        self.best[i], self.radius[i] = found[-1], distances[-1]
        self.limit[i] = reach(self.radius[i], Slack(near[i], wide[i], grown))
        kept = distances <= self.limit[i]
        self.count[i] = kept.sum()
        found[: self.count[i]], distances[: self.count[i]] = found[kept], distances[kept]


def nearest_left(centre: Array, taken: Array, box: Box) -> Array:
    """Return the levels that are nearest to centres after a number of others have been taken.

    They alternate around the first one until one side of the box is used up.
    """
    low, high, offset = box
    first = np.minimum(np.maximum(np.rint(centre - offset), low), high)
    above = (centre - offset >= first) == (taken % 2 == 1)
    away = (taken + 1) // 2
    both = first + np.where(above, away, -away)
    one = np.where(first < (low + high) / 2, low + taken, high - taken)
    room = np.minimum(first - low, high - first)
    return np.where(taken <= 2 * room, both, one) + offset


def reach(radius: Any, slack: Slack) -> Any:
    """Return the largest computed distance that a row no worse may have: :eq:`proofs-reach`."""
    near, wide, grown = slack
    most = np.sqrt(radius) * grown + near
    most = np.sqrt(most * most + wide) * grown + near
    return most * most * grown


def capacity(rank: int) -> int:
    """Return how many rows within reach are collected at most."""
    return max(2**18 // rank, 64)


# --- what F and G are off, and the floor ----------------------------------------------------------


def normal_doubt(X: Array, factors: list[Array], mode: int) -> Doubt:
    """Bound the rounding of MTTKRP and Gram matrix, and of the levels: :eq:`proofs-normal`."""
    g = gamma_core(X.size // X.shape[mode] + sum(X.shape) + 4 * X.ndim + 8) * _SPARE
    sizes = [np.abs(A) for A in factors]
    return Doubt(g * mttkrp_core(np.abs(X), sizes, mode), g * gram_core(sizes, mode))


def no_single_change(
    V: Array, steps: Steps, doubt: Doubt, slope: Callable[[int, int], Any]
) -> bool:
    """Whether no single level can be changed for the better :eq:`proofs-single`.

    What a step up or down gains is ``+-2 r - c`` with the residual ``r = f - v G`` and the
    curvature ``c``; the objective being convex, no longer way can gain if neither of them does.
    Where rounding leaves a doubt, ``slope`` says the exact ``r`` and ``c`` of an entry.
    """
    low, high, offset = steps.box
    g, curvature = gamma_core(2 * len(steps.G) + 20), np.diag(steps.G)
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
    g = gamma_core(X.size + len(factors[0][0]) + 4 * X.ndim + 8)
    parts = reconstruct_core([np.abs(A) for A in factors])
    error, noise = np.linalg.norm(X - reconstruct_core(factors)), np.linalg.norm(np.abs(X) + parts)
    return max(float(error * (1 - g) - g * noise * _SPARE), 0.0)


def least_tail(M: Array, rank: int) -> float:
    """Return what no matrix of this rank is nearer than: Eckart and Young, :eq:`proofs-floor`.

    Singular values are trusted only as far as the product of what was computed gives the matrix
    back, and the singular vectors are orthonormal.
    """
    U, values, Vt = np.linalg.svd(M, full_matrices=False)
    n, g = len(values), gamma_core(sum(M.shape) + 8)
    apart = [np.linalg.norm(Q @ Q.T - np.eye(n)) + g * n for Q in (U.T, Vt)]
    away = np.linalg.norm(M - (U * values) @ Vt)
    away += 4 * g * (np.linalg.norm(M) + n * np.linalg.norm(values))
    shrunk = np.sqrt(prod(max(1 - float(d) * _SPARE, 0.0) for d in apart))
    tail = float(np.linalg.norm(values[rank:]))
    return max(float(tail * shrunk * (1 - g) - away * _SPARE), 0.0)

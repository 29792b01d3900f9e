"""Draw row problems, try all points of their boxes, and look for a false proof or bound.

Floats with an error bound of their own discard most points; fractions decide among the rest. What
is checked shares only the grid's levels with it. ``python tests/helpers/false_proofs.py ROWS
[SEED]`` writes a table of classes: rows drawn, proved, with ties, and false.
"""

import sys
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np

from qcp_ref import Grid, dequantize, gamma, quantize, solve_rows

SMALL = [
    *[Grid(2), Grid(3), Grid(3, narrow=True), Grid(3, signed=False), Grid(2, signed=False)],
    *[Grid(2, mid_rise=True), Grid(3, mid_rise=True), Grid(1, kind="binary")],
    Grid(2, kind="ternary"),
]
WIDE = [Grid(4), Grid(5, narrow=True), Grid(8), Grid(6, mid_rise=True), Grid(7, signed=False)]
MOST_POINTS = 2**16


def normal(rng, rank):
    K = rng.standard_normal((rank + rng.integers(0, 3), rank))
    return K, 3 * rng.standard_normal((rng.integers(1, 24), len(K)))


def columns(rng, rank):
    """Columns of very different length, and what fits them: data on the scale of the first."""
    K, M = normal(rng, rank)
    return K * 10.0 ** rng.uniform(-12, 12, rank), M


def parallel(rng, rank):
    K, M = normal(rng, rank)
    return rng.standard_normal((len(K), 1)) + 10.0 ** rng.uniform(-9, -1) * K, M


def parallel_columns(rng, rank):
    K, M = parallel(rng, rank)
    return K * 10.0 ** rng.uniform(-6, 6, rank), M


def singular(rng, rank):
    K = rng.integers(-3, 4, (rng.integers(1, rank + 1), rank)).astype(float)
    return K, rng.integers(-9, 10, (rng.integers(1, 24), len(K))).astype(float)


def ties(rng, rank):
    """Small integers; targets half-way between levels."""
    K = rng.integers(-2, 3, (rank, rank)).astype(float)
    return K, rng.integers(-7, 8, (rng.integers(1, 24), rank)) / 2 @ K.T


def doubled(rng, rank):
    """Equal columns of normal numbers: ties in numbers that are no integers."""
    K, M = normal(rng, rank)
    return K[:, rng.integers(0, rank, rank)], M


def exact_fit(rng, rank):
    K, M = normal(rng, rank)
    return K, rng.integers(-4, 5, (len(M), rank)) @ K.T


CLASSES = [normal, columns, parallel, parallel_columns, singular, ties, doubled, exact_fit]


def draw(rng):
    """Name, F, G, grid, scale; about every fourth Gram matrix is formed in float32."""
    make = CLASSES[rng.integers(len(CLASSES))]
    grid = (SMALL if rng.random() < 0.7 else WIDE)[rng.integers(5)] if rng.random() < 0.9 else None
    name, grid = make.__name__, grid or SMALL[rng.integers(len(SMALL))]
    most = int(np.log(MOST_POINTS if rng.random() < 0.1 else 2**10) / np.log(len(grid.levels)))
    rank = int(rng.integers(1, max(min(most, 5), 1) + 1))
    K, M = make(rng, rank)
    if rng.random() < 0.05:
        rank, grid, name = 1, Grid(16), "16 bits"
        K = rng.standard_normal((3, 1))
        M = 10.0 ** rng.uniform(0, 5) * rng.standard_normal((3, 3))
    lengths = np.sqrt((K**2).sum(axis=0))
    shape = [(), (len(M), 1), (1, rank)][rng.integers(3)]
    scale = np.full(shape, 0.5) if rng.random() < 0.3 else rng.uniform(0.2, 2.0, shape)
    if shape == (1, rank) and make in (columns, parallel_columns):
        scale = scale / np.where(lengths > 0, lengths, 1.0)  # steps that matter equally
    if rng.random() < 0.25:
        K, M, name = K.astype(np.float32), M.astype(np.float32), name + ", float32"
    F, G = (M @ K).astype(float), (K.T @ K).astype(float)
    if rng.random() < 0.1:  # all of it, or the step alone, near the ends of the range
        power, size = 2.0 ** rng.integers(-250, 250), 2.0 ** rng.integers(-100, 100)
        F, G, name = F * power * size, G * power**2, name + ", far"
        scale = scale * size / power
    return name, F, G, grid, scale


def exact_objective(f, G, a):
    places = [r for r, v in enumerate(a) if v]
    return sum(a[r] * (sum(G[r][q] * a[q] for q in places) - 2 * f[r]) for r in places)


def fractions(x):
    return [[Fraction(v) for v in row] for row in x.tolist()]


class Truth:
    """All points of the box of one problem."""

    def __init__(self, F, G, grid, scale):
        self.F, self.G, self.levels = F, G, np.asarray(grid.levels, dtype=float)
        self.scale = np.broadcast_to(scale, F.shape)
        self.points = np.array(list(product(self.levels, repeat=F.shape[1])))
        self.exact_G = fractions(G)

    def row(self, i, codes):
        """Exact objectives of these levels, the least of all, and how many points have it."""
        t = self.points * self.scale[i]
        u = gamma(2 * self.F.shape[1] + 10)
        value = (t * (t @ self.G - 2 * self.F[i])).sum(axis=1)
        error = u * (np.abs(t) * (np.abs(t) @ np.abs(self.G) + 2 * np.abs(self.F[i]))).sum(axis=1)
        error = error * 1.001
        near = np.flatnonzero(value - error <= (value + error).min())
        if near.size > 2000:  # equal floats, mostly: the rest may only be better by less than this
            return [self.exact(i, v) for v in codes], None, near.size
        found = [self.exact(i, v) for v in self.points[near]]
        least = min(found)
        return [self.exact(i, v) for v in codes], least, found.count(least)

    def exact(self, i, v):
        a = [Fraction(x) * Fraction(s) for x, s in zip(v.tolist(), self.scale[i], strict=True)]
        return exact_objective([Fraction(x) for x in self.F[i].tolist()], self.exact_G, a)


METHODS = [
    *[("round", {}), ("babai", {}), ("k-best", {"width": 3}), ("descent", {})],
    *[("descent", {"start": True}), ("sphere", {"budget": 20})],
    *[("sphere", {"budget": 20, "start": True}), ("sphere", {"budget": 10**5, "start": True})],
    *[("sphere", {"budget": 10**5}), ("sphere", {"budget": 10**5, "order": "natural"})],
]


def check(rng, counts, solve=solve_rows):
    """Draw one problem, solve it by all methods, and count what is claimed and what is wrong."""
    name, F, G, grid, scale = draw(rng)
    start = rng.choice(quantize(grid.levels, grid, 1.0), F.shape)
    fits = [
        solve(F, G, grid, scale, method=method, **options | ({"start": start} if begun else {}))
        for method, options in METHODS
        for begun in [options.get("start", False)]
        for options in [{k: v for k, v in options.items() if k != "start"}]
    ]
    truth, wrong = Truth(F, G, grid, scale), []
    unit = np.ones(())
    levels = [dequantize(fit.codes, unit, grid=grid) for fit in fits]
    begin = dequantize(start, unit, grid=grid)
    for i in range(len(F)):
        values, least, number = truth.row(i, [V[i] for V in levels] + [begin[i]])
        counts[name, "rows"] += 1
        counts[name, "ties"] += number > 1
        counts[name, "proved"] += bool(fits[-2].proved[i])
        best = min(values) if least is None else least
        for (method, options), fit, value in zip(METHODS, fits, values, strict=False):
            label = f"{method} {options}"
            if fit.proved[i] and value != best:
                wrong.append((label, "proof"))
            if Fraction(float(fit.bound[i])) > best:
                wrong.append((label, "bound"))
            if "start" in options and value > values[-1]:
                wrong.append((label, "worse than its start"))
            if abs(Fraction(float(fit.objective[i])) - value) > truth_rounding(truth, i, fit, grid):
                wrong.append((label, "objective"))
        for one, other in ((3, 4), (5, 6), (8, 7)):
            if values[other] > values[one]:
                wrong.append((f"{METHODS[other]}", "worse than without a start"))
    for what in wrong:
        counts[name, "false"] += 1
        if solve is solve_rows:
            case = name, what, grid, F.tolist(), G.tolist(), np.asarray(scale).tolist()
            sys.stdout.write(f"FALSE {case}\n")


def truth_rounding(truth, i, fit, grid):
    """The rounding that is stated for an objective."""
    a = np.abs(dequantize(fit.codes[i : i + 1], np.ones(()), grid=grid)[0] * truth.scale[i])
    size = a @ np.abs(truth.G) @ a + 2 * np.abs(truth.F[i]) @ a
    return Fraction(float(gamma(2 * a.size + 24) * size * 1.001))


def search(rows, seed, solve=solve_rows):
    """Return the counts of at least this many drawn rows."""
    rng, counts = np.random.default_rng([seed, 61]), Counter()
    while sum(n for (_, what), n in counts.items() if what == "rows") < rows:
        check(rng, counts, solve)
    return counts


def table(counts):
    lines = [f"{'class':34}{'rows':>9}{'proved':>9}{'ties':>9}{'false':>7}"]
    for name in sorted({name for name, _ in counts}):
        found = [counts[name, what] for what in ("rows", "proved", "ties", "false")]
        lines.append("{:34}{:>9}{:>9}{:>9}{:>7}".format(name, *found))
    found = [
        sum(n for (_, w), n in counts.items() if w == what)
        for what in ("rows", "proved", "ties", "false")
    ]
    return "\n".join([*lines, "{:34}{:>9}{:>9}{:>9}{:>7}".format("all", *found)])


if __name__ == "__main__":
    found = search(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    sys.stdout.write(f"{table(found)}\n")

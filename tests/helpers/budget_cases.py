"""Kernels and choices that tests of budgets share."""

import pickle
import threading
from concurrent.futures import Executor, Future
from fractions import Fraction
from math import prod

import numpy as np
from hypothesis import strategies as st
from support import seeds, sides

from qcp_ref import Choice, Grid, loops, project

axes = st.sampled_from([None, 0, 1])
bit_widths = st.integers(1, 16)
kernels = st.one_of(
    st.tuples(sides, sides),
    st.tuples(sides, sides, *[st.integers(1, 3)] * 2),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    st.tuples(sides, sides, *[st.integers(1, 2)] * 3),
)


def modes(shape):
    """Sides of the factors of a kernel."""
    area = prod(shape[2:])
    return shape[:2] if area == 1 else (*shape[:2], area)


# --- frontier -------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """A small kernel, budgets that pay for something, and options of a quick solver."""
    shape = draw(st.sampled_from([(4, 3), (3, 2, 1, 1), (4, 2, 3), (3, 4, 2, 2), (2, 2, 1, 2, 2)]))
    W = np.random.default_rng([draw(seeds), 29]).standard_normal(shape)
    axis, scale_bytes = draw(axes), draw(st.sampled_from([4, 8]))
    options = {
        "bits": draw(st.lists(st.integers(1, 5), min_size=1, max_size=2)),
        "dense": draw(st.lists(st.integers(1, 9), max_size=2)),
        "axis": axis,
        "scale_bytes": scale_bytes,
        "rng": draw(st.integers(0, 9)),
        "method": "als-round",
    }
    least = loops.factor_bytes(modes(shape), 1, max(options["bits"]), axis, scale_bytes)
    budgets = st.lists(st.integers(-9, 25), min_size=1, max_size=2)
    return W, [least, *(max(0, least + more) for more in draw(budgets))], options


def stored_bytes(choice, W, scale_bytes):
    """Pack what a choice stores."""
    if choice.fit is None:
        weights, scales = W.size, len(W)
    else:
        weights = sum(k.size for k in choice.fit.cp.codes)
        scales = sum(s.size for s in choice.fit.cp.scales)
    packed = np.packbits(np.ones(choice.bits * weights, np.uint8))
    return packed.nbytes + np.ones(scales, f"f{scale_bytes}").nbytes


def dense_error(W, bits):
    """Round channel after channel, on each of the two grids."""
    flat = W.reshape(len(W), -1)
    sums = [
        sum(((row - project(row, Grid(bits, mid_rise=mid))) ** 2).sum() for row in flat)
        for mid in (False, True)
    ]
    return float(np.sqrt(min(sums)) / np.linalg.norm(W))


class Elsewhere(Executor):
    """Like a pool of processes: pickles all that goes in and out; and runs the newest job first."""

    def __init__(self):
        self.jobs, self.turn = [], threading.Lock()

    def submit(self, job, /, *inputs):
        future = Future()
        self.jobs.append((future, pickle.dumps((job, inputs))))
        threading.Thread(target=self._work).start()
        return future

    def _work(self):
        with self.turn:
            future, text = self.jobs.pop()
            if not future.set_running_or_notify_cancel():
                return
            try:
                job, inputs = pickle.loads(text)
                future.set_result(pickle.loads(pickle.dumps(job(*inputs))))
            except BaseException as problem:
                future.set_exception(problem)


def same(left, right):
    return left == right and all(
        (a.fit is None and b.fit is None)
        or all((k == m).all() for k, m in zip(a.fit.cp.codes, b.fit.cp.codes, strict=True))
        for a, b in zip(left, right, strict=True)
    )


# --- allocation -----------------------------------------------------------------------------------


def layer_of(pairs):
    """Choices with these costs and damages."""
    return [
        Choice(rank=n + 1, bits=4, axis=None, cost=cost, error=0.5, squared_error=damage)
        for n, (cost, damage) in enumerate(pairs)
    ]


def network_of(layers):
    return [layer_of(pairs) for pairs in layers]


def weighted(layers, weights):
    """Costs and damages in exact numbers."""
    return [
        [(cost, Fraction(damage) * Fraction(weight)) for cost, damage in pairs]
        for pairs, weight in zip(layers, weights, strict=True)
    ]


@st.composite
def knapsacks(draw):
    """Layers of pairs with many ties, damages from tiny to huge, weights and a budget."""
    span = draw(st.sampled_from([5, 20]))
    small = st.integers(0, span).map(float)
    damages = draw(st.sampled_from([small, small, st.sampled_from([0.1, 0.3, 5e-324, 1e100])]))
    pair = st.tuples(st.integers(0, span), damages)
    sizes = draw(st.sampled_from([(1,), (4,), (1, 3), (4, 4), (3, 5, 2), (4, 4, 4), (2, 1, 3, 4)]))
    layers = [draw(st.lists(pair, min_size=size, max_size=size)) for size in sizes]
    if draw(st.booleans()):  # the more a choice costs, the less it spoils
        columns = [list(zip(*pairs, strict=True)) for pairs in layers]
        layers = [list(zip(sorted(c), sorted(d)[::-1], strict=True)) for c, d in columns]
    if draw(st.booleans()):
        layers[-1] = list(layers[0])
    weights = [1.0] * len(layers)
    if draw(st.booleans()):
        weights = [draw(st.sampled_from([1.0, 0.0, 0.1, 3.0, 1e150])) for _ in layers]
    least, most = (sum(end(cost for cost, _ in pairs) for pairs in layers) for end in (min, max))
    return layers, weights, draw(st.integers(least, most + 1))


def picks_of(found):
    return [choice.rank - 1 for choice in found.choices]


def largest_step(pairs):
    """The largest gain between two points that no third one lies below."""
    gains = [Fraction(0)]
    for c, d in pairs:
        for f, e in pairs:
            if c < f and d > e:
                below = [p for p in pairs if (p[1] - d) * (f - c) < (e - d) * (p[0] - c)]
                gains += [] if below else [d - e]
    return max(gains)

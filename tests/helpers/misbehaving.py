"""Adapters that do what a foreign implementation may do. Loaded by the kit from its own process."""

import os
import sys
import time
from itertools import count

import numpy as np

from qcp_ref.conformance import Adapter, Unsupported


def right(codes, scale, zero_point):
    return (codes.astype(np.float64) - zero_point) * scale


def adapter(function):
    """Return an adapter whose only operation, dequantize, does this."""
    impl = Adapter(function.__name__)
    impl.ops["dequantize"] = function
    return impl


@adapter
def good(codes, scale, zero_point):
    return right(codes, scale, zero_point)


@adapter
def chatty(codes, scale, zero_point):
    sys.stdout.write("a line on standard output\n")
    os.write(1, b"and one past Python\n")
    sys.stderr.write("x" * 1_000_000)
    return right(codes, scale, zero_point)


@adapter
def hangs(codes, scale, zero_point):
    time.sleep(60)


@adapter
def crashes(codes, scale, zero_point):
    sys.stderr.write("assertion failed in gemm\n")
    sys.stderr.flush()
    os.abort()


@adapter
def leaves(codes, scale, zero_point):
    os._exit(0)


@adapter
def raises(codes, scale, zero_point):
    raise RuntimeError("no kernel image")


@adapter
def mutates(codes, scale, zero_point):
    values = right(codes, scale, zero_point)
    codes[...] = 0
    return values


CALLS = count()


@adapter
def forgets(codes, scale, zero_point):
    return right(codes, scale, zero_point) + next(CALLS)


WORKSPACE = np.empty(4)


@adapter
def overwrites(codes, scale, zero_point):
    WORKSPACE[:] = right(codes, scale, zero_point).reshape(-1)
    return WORKSPACE.reshape(codes.shape)


@adapter
def races(codes, scale, zero_point):
    values = right(codes, scale, zero_point)
    return values if next(CALLS) % 10 < 9 else values + 1


@adapter
def noisy(codes, scale, zero_point):
    values = right(codes, scale, zero_point)
    return np.where(values == 0, -0.0, values) if next(CALLS) % 4 < 2 else values


@adapter
def unsure(codes, scale, zero_point):
    return right(codes, scale, zero_point) + next(CALLS) % 4 // 2


noisy.nondeterministic = unsure.nondeterministic = True
STARTED = []


@adapter
def warms(codes, scale, zero_point):
    if not STARTED:
        STARTED.append(time.sleep(1.0))
    return right(codes, scale, zero_point)


@adapter
def nan(codes, scale, zero_point):
    return right(codes, scale, zero_point) * np.nan


@adapter
def single(codes, scale, zero_point):
    return right(codes, scale, zero_point).astype(np.float32)


@adapter
def strange(codes, scale, zero_point):
    return np.array(["one", "two"])


@adapter
def flat(codes, scale, zero_point):
    return right(codes, scale, zero_point).reshape(-1)


@adapter
def twice(codes, scale, zero_point):
    return right(codes, scale, zero_point), 1


@adapter
def wrong(codes, scale, zero_point):
    return right(codes, scale, -zero_point)


@adapter
def partial(codes, scale, zero_point):
    if zero_point.any():
        raise Unsupported("affine")
    return right(codes, scale, zero_point)


@adapter
def typo(codes, scale, zero_point):
    raise Unsupported("afine")


@adapter
def careless(codes, scale, zero_point):
    return right(codes, np.nan_to_num(scale), zero_point)


WORDS = {
    "hangs": "timeout",
    "crashes": "crash",
    "leaves": "crash",
    "raises": "raises",
    "mutates": "mutates",
    "forgets": "unrepeatable",
    "overwrites": "overwritten",
    "nan": "nan",
    "single": "wrong-dtype",
    "strange": "wrong-dtype",
    "flat": "wrong-shape",
    "twice": "wrong-shape",
    "wrong": "wrong-value",
}

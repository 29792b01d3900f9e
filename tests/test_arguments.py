"""What becomes of every value in every argument: the table of docs/conventions.rst, tried out.

The registry in argument_calls.py has a right call of every public function. Each trial puts one
value of the table into one argument. The long profile makes all trials, the others some of them.
"""

import csv
import re
import signal
import tempfile
import time
import warnings
from copy import copy, deepcopy
from decimal import Decimal
from fractions import Fraction
from itertools import count
from math import inf, nan

import numpy as np
from argument_calls import REGISTRY
from scipy.sparse import csr_array
from support import REFERENCE

from qcp_ref import CP, Costs, Grid, Scale

TABLE = REFERENCE.parent / "conventions.rst"
VERDICTS = {"no", "same", "maybe", ""}
SECONDS = 1.0


def table():
    """Expression -> kind -> verdict."""
    text = TABLE.read_text(encoding="utf-8")
    _, _, rest = text.partition(".. csv-table:: Values and kinds of arguments\n   :header: ")
    head, _, body = rest.partition("\n\n")
    kinds = [name.strip() for name in head.split(",")][1:]
    rows = csv.reader(line[3:] for line in body.split("\n\n")[0].splitlines())
    return {
        cells[0].strip("`"): dict(zip(kinds, cells[1:], strict=True)) for cells in rows if cells
    }


# --- values ---------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """An ordinary subclass."""


class Foreign:
    """An array of another library."""

    def __init__(self, array, **parts):
        self.array = np.asarray(array)
        vars(self).update(parts)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


class Unreadable(Foreign):
    """An object that does not let itself be made an array."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array can be made of this")


class Masks(Foreign):
    """An object that becomes a masked array."""

    def __array__(self, dtype=None, copy=None):
        return np.ma.array(self.array, mask=self.array > 0)


class Index:
    """An integer that is no int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def read_only(v):
    v = v.copy()
    v.setflags(write=False)
    return v


def memory_map(v):
    with tempfile.TemporaryFile() as file:
        made = np.memmap(file, v.dtype, shape=v.shape or (1,))
        made[...] = v
        return made if v.shape else made[0]


def backwards(v):
    return np.ascontiguousarray(v[..., ::-1])[..., ::-1]


NAMES = {
    "np": np, "nan": nan, "inf": inf, "Fraction": Fraction, "Decimal": Decimal, "count": count,
    "copy": copy, "deepcopy": deepcopy, "csr_array": csr_array, "Grid": Grid, "CP": CP,
    "Scale": Scale, "Costs": Costs, "index": Index, "vars_of": lambda v: dict(vars(v)),
    "read_only": read_only, "memory_map": memory_map, "backwards": backwards,
    "subclass": lambda v: v.view(Subclass), "foreign": Foreign, "unreadable": Unreadable,
    "masks_itself": Masks, "quantity": lambda v: Foreign(v, units="m"),
    "gradient": lambda v: Unreadable(v, requires_grad=True),
    "bfloat": lambda v: Unreadable(v, dtype="torch.bfloat16"),
    "sparse": lambda v: Unreadable(v, toarray=lambda: v),
}  # fmt: skip


def made(expression, right):
    """Return the value, or an exception where the expression makes no sense for this argument."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            return eval(expression, dict(NAMES, v=right))
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        return error


class Stuck(BaseException):
    """A call has taken too long."""


def _stuck(number, frame):
    raise Stuck


# --- one trial ------------------------------------------------------------------------------------


def parts(value):
    """All numbers and texts of a result or an argument, as a flat list."""
    if isinstance(value, np.ndarray):
        return [
            value.dtype.str.lstrip("<>="),
            value.shape,
            *(np.ascontiguousarray(value).ravel().tolist() if value.dtype.kind != "V" else ()),
        ]
    if isinstance(value, (list, tuple)):
        return [part for one in value for part in parts(one)]
    if isinstance(value, dict):
        return [part for one in value.items() for part in parts(one)]
    if isinstance(value, (Foreign, Index)) or type(value).__module__.startswith("qcp_ref"):
        return parts(vars(value)) if hasattr(value, "__dict__") else [repr(value)]
    if isinstance(value, np.generic):
        return [value.item()]
    if isinstance(value, int) and value.bit_length() > 64:
        return [hex(value)]  # Python writes no decimal numbers of that size
    if isinstance(value, (int, float, complex, str, bytes)) or value is None:
        return [value]
    return []


def verdict(argument, expression, rows):
    """What the table says about a value in an argument; of two kinds the more lenient counts."""
    if expression in argument.takes:
        return "maybe"
    found = {rows[expression].get(kind, "maybe") for kind in argument.kinds}
    if argument.value is None and re.search(r"\bv\b", expression):
        return ""
    if len(found) > 1 and found != {"no"}:
        return "maybe" if found != {""} else ""
    return found.pop()


def heads(message):
    """The names with which a message begins."""
    return {name.split("[")[0].strip() for name in message.partition(": ")[0].split(",")}


def called(call, arguments):
    positional = list(arguments)[: call.positional]
    rest = {name: arguments[name] for name in arguments if name not in positional}
    return call.function(*(arguments[name] for name in positional), **rest)


def trial(name, argument, expression, right, said):
    """Put one value into one argument; return what is wrong with what happens, or None."""
    call = REGISTRY[name]
    arguments = {key: one.value for key, one in call.arguments.items()}
    if argument == "rate" and "rank" in arguments:
        arguments["rank"] = None
    value = made(expression, arguments[argument])
    if isinstance(value, Exception) and not expression.startswith("ValueError"):
        return "no sense"
    arguments[argument] = value
    before = repr(parts(list(arguments.values())))
    start, result, error = time.process_time(), None, None
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)
    try:
        result = called(call, arguments)
    except (Exception, Stuck) as raised:
        error = raised
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - start
    if repr(parts(list(arguments.values()))) != before:
        return "an input was changed"
    if seconds > SECONDS:
        return f"{seconds:.1f} seconds"
    if error is not None:
        known = {argument} if said == "no" else {*call.arguments, "rule"}
        return _wrong_refusal(error, said, known)
    found = parts(result)
    if any(isinstance(one, float) and one != one for one in found):
        return "NaN"
    if said == "no":
        return f"taken: {result!r:.60}"
    return "another result" if said == "same" and found != right else None


def _wrong_refusal(error, said, known):
    message = f"{type(error).__name__}: {error}"[:300]
    if said == "same":
        return f"refused: {message}"
    if type(error) not in (TypeError, ValueError):
        return message
    return None if heads(str(error)) & known else f"unnamed: {message}"


RIGHT = {}
signal.signal(signal.SIGVTALRM, _stuck)


def right(name):
    """The result of the right call; it has been made before anything is timed."""
    if name not in RIGHT:
        call = REGISTRY[name]
        RIGHT[name] = parts(called(call, {k: one.value for k, one in call.arguments.items()}))
    return RIGHT[name]


def trials(names=REGISTRY):
    rows = table()
    for name in names:
        for argument, one in REGISTRY[name].arguments.items():
            for expression in rows:
                said = verdict(one, expression, rows)
                if said:
                    yield name, argument, expression, said


def complaints(chosen):
    found = []
    for name, argument, expression, said in chosen:
        wrong = trial(name, argument, expression, right(name), said)
        if wrong not in (None, "no sense"):
            found.append(f"{name}({argument}={expression}): {wrong}")
    return found

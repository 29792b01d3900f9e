"""How does an implementation plug in? An adapter is a name, an arithmetic, and functions.

Each function has the name and the arguments of an operation of ``qcp_ref.conformance.spec``,
takes NumPy arrays and returns NumPy arrays, or anything that ``numpy.asarray`` accepts. What the
implementation cannot do is declared by capability, what it does differently by choice.

:func:`execute` runs one case on an adapter in this process, and looks at the conduct of the
function: arguments unchanged, the same answer when asked again, with another call between, and the
first answer still there after it.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, LISTS, OPS, Arithmetic

__all__ = ["MISCONDUCT", "REPEAT", "Adapter", "Unsupported", "execute", "flipped"]

REPEAT = 2  # times that each call is made
# Words for what an implementation may not do whatever it computes; the checks that find it.
MISCONDUCT = {"mutates": "inputs", "unrepeatable": "repeats", "overwritten": "results"}


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def _sliced(array: NDArray[Any]) -> NDArray[Any]:
    """Put a large number after each one, and look at every second."""
    large = 2**20 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), large, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


_LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "fortran": np.asfortranarray,
    "sliced": lambda a: _sliced(a) if a.ndim else a,
    "negative": lambda a: a[..., ::-1].copy()[..., ::-1] if a.ndim else a,
    "read-only": _frozen,
}


class Unsupported(Exception):
    """Raised by an adapter for a case it cannot run; names a capability."""


class _Offence(Exception):
    """What a call did that it may not do: one word, and a sentence."""


class Adapter:
    """An implementation under test.

    Parameters
    ----------
    name, version : str
        What the report calls it.
    arith : str
        'f32' or 'f64': the type of the arrays it gets and returns, and the precision it computes
        in. 'tf32>f32', 'bf16>f32' or 'f16>f32': inputs are rounded to a shorter type first.
    to, back : callable, optional
        Applied to each array before an operation and to each result after it.
    fast : float, optional
        Declares convolutions by a fast algorithm (Winograd, FFT), whose error is bounded in the
        norm only, by ``fast * u * norm(x) * norm(kernel)``.
    nondeterministic : bool
        Declares that the same call may give other results within the bounds, as with atomic
        additions: each answer is held to its bound, instead of all to each other.
    command : sequence of str, optional
        Start this program and talk to it instead; see :meth:`pipe`.
    **choices
        What it does differently, of ``qcp_ref.conformance.spec.CHOICES``.

    Raises
    ------
    ValueError
        For an arithmetic, choice, operation or capability that is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref.conformance import Adapter
    >>> impl = Adapter("mine", "1.0", arith="f64")
    >>> @impl.op
    ... def pointwise(x, A, bias, *, stride):
    ...     y = np.einsum("oc,nchw->nohw", A, x[:, :, :: stride[0], :: stride[1]])
    ...     return y if bias is None else y + bias[:, None, None]
    >>> sorted(impl.ops)
    ['pointwise']
    """

    def __init__(
        self,
        name: str,
        version: str = "",
        *,
        arith: str = "f64",
        to: Callable[[Any], Any] | None = None,
        back: Callable[[Any], Any] | None = None,
        fast: float | None = None,
        nondeterministic: bool = False,
        command: Iterable[str] | None = None,
        **choices: str,
    ) -> None:
        self.name, self.version, self.arith = name, version, arith
        self.arithmetic, self.fast = Arithmetic.of(arith), fast
        self.nondeterministic = nondeterministic
        self.to, self.back = to or (lambda array: array), back or _plain
        self.command = None if command is None else [str(part) for part in command]
        for key, value in choices.items():
            if value not in CHOICES.get(key, ()):
                raise ValueError(
                    f"{key}: expected one of the choices {CHOICES.get(key) or list(CHOICES)}, "
                    f"got {value!r}"
                )
        self.choices = {key: choices.get(key, options[0]) for key, options in CHOICES.items()}
        self.ops: dict[str, Callable[..., Any]] = {}
        self.lacking: set[str] = set()

    def op(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function under its own name (a decorator)."""
        if function.__name__ not in OPS:
            raise ValueError(f"op: expected one of {sorted(OPS)}, got {function.__name__!r}")
        self.ops[function.__name__] = function
        return function

    def lacks(self, *capabilities: str) -> None:
        """Declare what the implementation cannot do; the cases that need it are not run."""
        for name in capabilities:
            if name not in CAPABILITIES:
                raise ValueError(f"lacks: expected one of {sorted(CAPABILITIES)}, got {name!r}")
        self.lacking.update(capabilities)

    @classmethod
    def of(cls, module: Any) -> "Adapter":
        """Take a module whose functions have the names and arguments of operations."""
        found = {name: getattr(module, name) for name in OPS if callable(getattr(module, name, 0))}
        name = getattr(module, "__name__", type(module).__name__)
        if not found:
            raise ValueError(f"{name}: expected an Adapter, or functions named like operations")
        adapter = cls(name, str(getattr(module, "__version__", "")))
        adapter.ops.update(found)
        return adapter

    @classmethod
    def pipe(cls, command: Iterable[str]) -> "Adapter":
        """Take a program that reads requests and writes answers, one JSON object per line.

        The program introduces itself (name, arithmetic, operations) when it is asked to.
        """
        return cls("pipe", command=command)

    def hello(self) -> dict[str, Any]:
        """Return what the runner has to know, as sent through the pipe."""
        return {
            "name": self.name,
            "version": self.version,
            "arith": self.arith,
            "fast": self.fast,
            "nondeterministic": self.nondeterministic,
            "choices": self.choices,
            "ops": sorted(self.ops),
            "lacks": sorted(self.lacking),
        }


def _plain(result: Any) -> Any:
    """Return an array of any library as NumPy's; known by what it can do, nothing is imported."""
    for method in ("detach", "cpu"):
        result = getattr(result, method)() if hasattr(result, method) else result
    return result.get() if type(result).__module__.split(".")[0] == "cupy" else np.asarray(result)


def execute(adapter: Adapter, case: Mapping[str, Any]) -> dict[str, Any]:
    """Run one case in this process; return its results, or what went wrong in one word.

    Parameters
    ----------
    adapter : Adapter
        With a function for the case's operation.
    case : mapping
        With 'op', 'in' (encoded arrays), 'options', perhaps 'layout', and 'repeat': how often the
        call is made.

    Returns
    -------
    dict
        {'out': encoded results by name, 'checks': those that were made of 'repeats', 'inputs',
        'results', and 'others': more answers of a nondeterministic adapter}, or
        {'unsupported': capability}, or {'error': text, 'word': one of 'raises', 'mutates',
        'overwritten', 'unrepeatable', 'wrong-dtype', 'wrong-shape'}.
    """
    try:
        return _observed(_Caller(adapter, case), case.get("repeat", REPEAT))
    except _Offence as found:
        word, says = found.args
        return {"word": word, "error": says}
    except Unsupported as missing:
        return {"unsupported": str(missing)}
    except Exception as error:
        return {"word": "raises", "error": f"{type(error).__name__}: {error}"}


def flipped(op: str, given: Any) -> Any:
    """Return other input that means as much: all axes of all arrays are reversed.

    So factors still fit their tensor, and a Gram matrix stays one. Where the result does not depend
    on the order of the entries, they are doubled.
    """
    twice = 1 if op in ("choose_scale", "choose_affine", "refit_scale") else 0

    def other(name: str, part: Any) -> Any:
        if isinstance(part, list):
            return [other(name, entry) for entry in part]
        if part is None:
            return None
        return {**part, "m": part["m"][::-1], "e": part["e"] + twice * (name in ("x", "F"))}

    return {name: other(name, part) for name, part in given.items()}


class _Caller(NamedTuple):
    """One case on one adapter, to be called again and again."""

    adapter: Adapter
    case: Mapping[str, Any]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function returns, by name; its arguments have to stay as they are."""
        spec, adapter = OPS[self.case["op"]], self.adapter
        given = [self._array(inputs[name]) for name in spec.arrays]
        handed = [_map(adapter.to, part) for part in given]
        options = deepcopy(self.case["options"])
        before = _bytes(given), [_entries(part) for part in handed]
        result = adapter.ops[self.case["op"]](*handed, **options)
        several = isinstance(result, tuple) or len(spec.results) > 1
        results = tuple(result) if several else (result,)
        if len(results) != len(spec.results):
            says = f"expected results {spec.results}, got {len(results)} of them"
            raise _Offence("wrong-shape", says)
        if before != (_bytes(given), [_entries(part) for part in handed]):
            raise _Offence("mutates", "the inputs were changed")
        if options != self.case["options"]:
            raise _Offence("mutates", f"the options were changed to {options}")
        return dict(zip(spec.results, results, strict=True))

    def _array(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._array(part) for part in data]
        layout = _LAYOUTS.get(self.case.get("layout", ""), np.ascontiguousarray)
        # ascontiguousarray makes an axis where there is none.
        real = self.adapter.arithmetic.real
        return None if data is None else layout(decode(data, real)).reshape(data["s"])

    def arrays(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return raw results as arrays of NumPy."""
        back, op = self.adapter.back, self.case["op"]
        return {
            name: _map(back, part) if (op, name) in LISTS else back(part)
            for name, part in raw.items()
        }


def _observed(call: _Caller, repeat: int) -> dict[str, Any]:
    """Call with the case's input, with other input between, and compare the answers."""
    inputs = call.case["in"]
    raw = call(inputs)
    arrays = call.arrays(raw)
    try:
        out, first = _encoded(arrays), _bytes(arrays)
    except TypeError as error:
        raise _Offence("wrong-dtype", str(error)) from None
    reply: dict[str, Any] = {"out": out, "checks": ["inputs"]}
    others = list[dict[str, Any]]()

    def hold() -> None:
        now = call.arrays(raw)
        if _bytes(now) != first and _encoded(now) != out:
            raise _Offence("overwritten", "a later call changed the result of this one")

    if repeat > 1 and _between(call) not in (first, None):
        reply["checks"].append("results")
    hold()
    for _ in range(1, repeat):
        again = call.arrays(call(inputs))
        if _bytes(again) != first and (answer := _encoded(again)) != out and answer not in others:
            others.append(answer)
    hold()
    if others and not call.adapter.nondeterministic:
        raise _Offence("unrepeatable", "the same call gave another result")
    reply["checks"] += ["repeats"] if repeat > 1 else []
    return reply | ({"others": others} if others else {})


def _between(call: _Caller) -> Any:
    """Call with other input of the same sizes; whatever that gives is not judged here."""
    try:
        return _bytes(call.arrays(call(flipped(call.case["op"], call.case["in"]))))
    except Exception:  # only the case's own input is asked
        return None


def _encoded(results: dict[str, Any]) -> dict[str, Any]:
    return {name: _map(encode, part) for name, part in results.items()}


def _map(function: Callable[[Any], Any], part: Any) -> Any:
    if isinstance(part, (list, tuple)):
        return [_map(function, entry) for entry in part]
    return None if part is None else function(part)


def _bytes(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _bytes(entry) for name, entry in part.items()}
    if isinstance(part, (list, tuple)):
        return [_bytes(entry) for entry in part]
    if part is None:
        return None
    part = np.asarray(part)
    return part.dtype, part.shape, part.tobytes()


def _entries(part: Any) -> Any:
    """Return which objects a list holds, to see whether others stand there later."""
    return [*map(id, part)] if isinstance(part, list) else None

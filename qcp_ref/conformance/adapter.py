"""How does an implementation plug in? An adapter is a name, an arithmetic, and functions.

Each function has the name and the arguments of an operation of ``qcp_ref.conformance.spec``,
takes NumPy arrays and returns NumPy arrays, or anything that ``numpy.asarray`` accepts. What the
implementation cannot do is declared by capability, what it does differently by choice.

:func:`execute` runs one case on an adapter in this process, with the checks that cost nothing:
inputs unchanged, the same answer when asked again.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, LISTS, OPS, Arithmetic

__all__ = ["Adapter", "Unsupported", "execute"]


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


_LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "fortran": np.asfortranarray,
    "sliced": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "negative": lambda a: a[..., ::-1].copy()[..., ::-1] if a.ndim else a,
    "read-only": _frozen,
}


class Unsupported(Exception):
    """Raised by an adapter for a case it cannot run; names a capability."""


class _Count(Exception):
    pass


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
        command: Iterable[str] | None = None,
        **choices: str,
    ) -> None:
        self.name, self.version, self.arith = name, version, arith
        self.arithmetic, self.fast = Arithmetic.of(arith), fast
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
        With 'op', 'in' (encoded arrays), 'options', and perhaps 'layout'.

    Returns
    -------
    dict
        {'out': encoded results by name} or {'unsupported': capability} or {'error': text, 'word':
        one of 'raises', 'mutates', 'unrepeatable', 'wrong-dtype', 'wrong-shape'}.
    """
    spec, function = OPS[case["op"]], adapter.ops[case["op"]]
    real = adapter.arithmetic.real
    layout = _LAYOUTS.get(case.get("layout", ""), np.ascontiguousarray)

    def array(data: Any) -> Any:
        if isinstance(data, list):
            return [array(part) for part in data]
        # ascontiguousarray makes an axis where there is none.
        return None if data is None else layout(decode(data, real)).reshape(data["s"])

    given = [array(case["in"][name]) for name in spec.arrays]
    before = [_bytes(part) for part in given]

    def call() -> dict[str, Any]:
        result = function(*_map(adapter.to, given), **case["options"])
        several = isinstance(result, tuple) or len(spec.results) > 1
        results = tuple(result) if several else (result,)
        if len(results) != len(spec.results):
            raise _Count(f"expected results {spec.results}, got {len(results)} of them")
        found = zip(spec.results, results, strict=True)
        return {
            name: _map(adapter.back, part) if (case["op"], name) in LISTS else adapter.back(part)
            for name, part in found
        }

    try:
        raw = call()
        try:
            out = _encoded(raw)
        except TypeError as error:
            return {"word": "wrong-dtype", "error": str(error)}
        if [_bytes(part) for part in given] != before:
            return {"word": "mutates", "error": "the inputs were changed"}
        if _encoded(call()) != out:
            return {"word": "unrepeatable", "error": "the same call gave another result"}
    except _Count as error:
        return {"word": "wrong-shape", "error": str(error)}
    except Unsupported as missing:
        return {"unsupported": str(missing)}
    except Exception as error:
        return {"word": "raises", "error": f"{type(error).__name__}: {error}"}
    return {"out": out}


def _encoded(results: dict[str, Any]) -> dict[str, Any]:
    return {name: _map(encode, part) for name, part in results.items()}


def _map(function: Callable[[Any], Any], part: Any) -> Any:
    if isinstance(part, (list, tuple)):
        return [_map(function, entry) for entry in part]
    return None if part is None else function(part)


def _bytes(part: Any) -> Any:
    if isinstance(part, list):
        return [_bytes(entry) for entry in part]
    return None if part is None else part.tobytes()

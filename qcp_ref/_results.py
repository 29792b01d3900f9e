"""Ground floor: results do not change after they were returned.

The classes that hold results are frozen: their fields cannot be replaced, and with :func:`frozen`
the arrays in them cannot be written either. Each is a copy of its own, so nothing that happens to
an argument shows in a result. Copies and unpickled objects are frozen in the same way. Arrays that
are returned as such, not in an object, belong to the caller, who may write them.

Checked by tests/test_results.py.
"""

from functools import wraps
from typing import Any, TypeVar

import numpy as np

__all__: list[str] = []

Result = TypeVar("Result")


def frozen(cls: type[Result]) -> type[Result]:
    """Decorate a NamedTuple or a frozen dataclass: no array that it holds can be written."""
    kind: Any = cls
    if issubclass(kind, tuple):
        make = kind.__new__

        @wraps(make)
        def new(cls: Any, *args: Any, **options: Any) -> Any:
            named = {name: sealed(value) for name, value in options.items()}
            return make(cls, *map(sealed, args), **named)

        kind.__new__ = new  # unpickling and copying come here, too
        kind._make = classmethod(lambda cls, values: cls(*values))  # and what _replace makes
        return cls
    start = kind.__init__

    @wraps(start)
    def init(self: Any, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        _set(self, vars(self))

    kind.__init__ = init
    kind.__setstate__ = _set  # unpickling and copying do not call __init__
    return cls


def sealed(value: Any) -> Any:
    """Return an array as a copy that cannot be written; one that is such a copy stays."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable or value.base is not None:
            value = value.copy(order="K")
            value.setflags(write=False)
        return value
    return tuple(map(sealed, value)) if type(value) is tuple else value


def _set(self: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        object.__setattr__(self, name, sealed(value))

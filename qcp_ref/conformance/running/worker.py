"""The process in which an implementation runs: it may hang or crash without ending the run.

It reads requests and writes answers, one JSON object per line, numbers as in the vectors. A program
in any other language that does the same takes its place (:meth:`Adapter.pipe`):

- ``{"qcp": 1, "hello": 1}`` is answered by a description: name, version, arith, ops, lacks,
  choices, fast; only name and ops are necessary;
- ``{"id": 7, "op": ..., "in": {...}, "options": {...}}`` by ``{"id": 7, "out": {...}}``, by
  ``{"id": 7, "unsupported": capability}`` or by ``{"id": 7, "error": text}``.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.dyadic import canonical

__all__ = ["answers", "load", "main"]


def load(place: str) -> Adapter:
    """Return the adapter at 'module', 'module:name', 'file.py' or 'file.py:name'.

    Raises
    ------
    ValueError
        If there is neither an adapter nor a module with functions named like operations.
    """
    where, _, name = place.partition(":")
    if where.endswith(".py"):
        path = Path(where).resolve()
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise ValueError(f"implementation: no such file: {where}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        if "" not in sys.path:
            sys.path.insert(0, "")
        module = importlib.import_module(where)
    found: Any = module
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)
    if isinstance(found, Adapter):
        return found
    if found is None:
        raise ValueError(f"implementation: {where} has no {name}")
    return Adapter.of(found)


def answers(adapter: Adapter, lines: Iterable[str]) -> Iterator[str]:
    """Answer requests; a line that is no request is answered by an error."""
    for line in lines:
        request = json.loads(line)
        if "hello" in request:
            yield canonical(adapter.hello())
        else:
            yield canonical({"id": request["id"], **execute(adapter, request)})


def main(arguments: list[str]) -> None:
    """Serve one adapter until the input ends.

    What the implementation itself prints goes to standard error, away from the answers.
    """
    private = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for answer in answers(load(arguments[0]), sys.stdin):
        private.write(answer + "\n")
        private.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

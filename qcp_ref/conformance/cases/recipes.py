"""How are sizes asked that no file could hold? A case may be a recipe instead of stored arrays.

A recipe names a generator, a seed and sizes; :func:`expand` makes the arrays of it, always the
same, and what is right is computed when it is asked. So the package does not grow with the sizes.

Checked by tests/conformance/cases/test_recipes.py.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from qcp_ref.conformance.cases import geometries, precise, sizes
from qcp_ref.conformance.cases.draw import DRAWN
from qcp_ref.conformance.cases.exact import arrays_of, is_short
from qcp_ref.conformance.cases.make import Case, needs_of
from qcp_ref.conformance.dyadic import encode
from qcp_ref.conformance.spec import OPS

__all__ = ["expand", "recipes"]


_FLAGS = {"net": "Geometry", "pairs": "Geometry"}
_FLAGS |= dict.fromkeys(("precise", "units", "parallel", "tie"), "Precision")


@cache
def recipes() -> tuple[Case, ...]:
    """Return all cases that are recipes: sizes, geometries, products of options."""
    rows = [*sizes.rows(), *geometries.rows(), *precise.rows()]
    return tuple(_written(*row) for row in rows)


def _written(
    op: str, name: str, says: str, measures: Mapping[str, Any], options: Mapping[str, Any]
) -> Case:
    return {
        "id": f"{op}.{name}",
        "since": "0.1",
        "op": op,
        "says": says,
        "flags": [_FLAGS.get(name.split(".", maxsplit=1)[0], "Size")],
        "recipe": {"generator": op, "seed": f"{op}.{name}", "sizes": dict(measures)},
        "options": dict(options),
        "needs": [],
    }


def expand(case: Mapping[str, Any]) -> Case:
    """Return a case with its inputs; a stored one has them already.

    Parameters
    ----------
    case : mapping
        A case of the suite.

    Returns
    -------
    dict
        The case with 'in', with 'needs' that follow from what was drawn, and with 'out': what is
        right if it is known beforehand, otherwise ``{"kind": "recipe"}``, and the judge computes it.
    """
    if "recipe" not in case:
        return dict(case)
    recipe, op = case["recipe"], case["op"]
    drawn, out = DRAWN[recipe["generator"]](recipe["seed"], recipe["sizes"], case["options"])
    given = {name: _encoded(drawn[name]) for name in OPS[op].arrays}
    whole = {**case, "in": given, "out": out or {"kind": "recipe"}}
    needs = {*case["needs"], *needs_of(whole)}
    if not all(map(is_short, arrays_of(drawn))):
        needs.add("float64")
    return {**whole, "needs": sorted(needs)}


def _encoded(part: Any) -> Any:
    if isinstance(part, list):
        return [_encoded(one) for one in part]
    if part is None:
        return None
    data = encode(part)
    return {**data, "t": "real"} if data["t"] == "f64" else data

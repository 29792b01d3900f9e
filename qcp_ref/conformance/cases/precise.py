"""Where are all 53 bits of float64 needed, and where is a number that is small in itself no zero?

Scales and multipliers next to ties, codes beside a large zero point, sums that float32 does not
hold, problems of solvers in units of ``2**-30`` and ``2**30``, components that are parallel but for
one part in ``2**24``, columns whose squared length underflows in float32.

Checked by tests/conformance/cases/test_recipes.py.
"""

from collections.abc import Iterator

from qcp_ref.conformance.cases.make import PLAIN
from qcp_ref.conformance.cases.sizes import Row

__all__ = ["rows"]

_I8, _U8, _I4 = ({"qmin": a, "qmax": b} for a, b in ((-128, 127), (0, 255), (-8, 7)))
_CLOSE = (26, 30, 34, 40, 48)  # next to a tie by one part in a power of two
_IMAGE = {"images": 2, "inputs": 3, "outputs": 4, "height": 4, "width": 5, "rank": 3}


def rows() -> Iterator[Row]:
    """Yield all rows of the table."""
    for family in (_ties, _sums, _units):
        yield from family()


def _ties() -> Iterator[Row]:
    for n, close in enumerate(_CLOSE):
        says = f"Numbers are next to a tie by one part in 2**{close}: no number is shortened."
        for spread, part in (("one", []), ("row", [4, 1])):
            measures = {"shape": [4, 12], "scale": part, "zero": part, "near": 0, "close": close}
            for op in ("quantize", "project"):
                yield op, f"precise.{close}.{spread}", says, measures, (_I8, _U8)[n % 2]
        measures = {"shape": [2, 24], "zero": 3, "channels": True, "close": close}
        yield "requantize", f"precise.{close}", says, measures, (_I8, _U8)[n % 2]
        layer = {**_IMAGE, "outputs": 9, "kernel": [2, 3], "bias": 24, "close": close}
        options = {"x_zero": 7, "y_zero": 5, **(_I8, _U8)[n % 2], "relu": False}
        yield "quantized_linear", f"precise.{close}", says, layer, options
        yield "quantized_conv2d", f"precise.{close}", says, layer, {**options, **PLAIN}
    for spread, part in (("one", []), ("row", [4, 1])):
        measures = {
            "shape": [4, 12],
            "scale": part,
            "zero": part,
            "range": [-128, 127],
            "digits": 1,
        }
        says = "A product with a scale of 53 bits is rounded once."
        yield "dequantize", f"precise.{spread}", says, measures, {}
        far = {**measures, "range": [2**30 - 99, 2**30 + 99], "digits": 0}
        says = "The zero point is subtracted before anything is rounded."
        yield "dequantize", f"precise.far.{spread}", says, far, {}
    for name, ends in (("n2", (-1, 1)), ("u1", (0, 1))):
        for largest in (-1, 1):
            says, options = "Zero points at a tie.", {"qmin": ends[0], "qmax": ends[1]}
            z = {"shape": [17], "largest": largest, "tie": True}
            yield "choose_affine", f"tie.{name}.{largest + 1}", says, z, options


def _sums() -> Iterator[Row]:
    says = "Sums of integers that float64 holds and float32 does not."
    window = {**PLAIN, "padding": [1, 0, 0, 1]}
    z = {**_IMAGE, "bits": 30, "bias": 1, "kernel": [2, 3]}
    yield "conv2d", "precise", says, z, window
    yield "pointwise", "precise", says, z, {"stride": [1, 1]}
    yield "depthwise", "precise", says, z, {"kernel_size": [2, 3], **window}
    yield "cp_conv2d", "precise", says, z, {"kernel_size": [2, 3], **window}
    for sides in ([3, 4, 2], [4, 3], [2, 3, 2, 3]):
        name, z = "x".join(map(str, sides)), {"sides": sides, "rank": 3, "bits": 30}
        yield "reconstruct", f"precise.{name}", says, {**z, "weights": 1, "long": 30}, {}
        for mode in range(len(sides)):
            yield "mttkrp", f"precise.{name}.mode-{mode}", says, z, {"mode": mode}
    z = {"sides": [4, 3], "rank": 3, "long": 25}
    yield "gram", "precise.4x3.mode-1", says, z, {"mode": 1}


def _units() -> Iterator[Row]:
    sides = {"sides": [4, 5, 3], "rank": 3}
    for power in (-30, 30):
        says = f"Nothing absolute is added or compared: numbers of size 2**{power}."
        for mode in range(3):
            z = {**sides, "power": power, "powers": [power] * 3}
            yield "als_update", f"units.{power + 30}.mode-{mode}", says, z, {"mode": mode}
            z = {**sides, "power": power, "sides": [4, 5, 3]}
            yield "epc_update", f"units.{power + 30}.mode-{mode}", says, z, {"mode": mode}
            z = {**sides, "bits": 53, "power": power - 53}
            says_ = "Products of a tensor of 53 bits are summed in float64."
            yield "als_update", f"precise.{power + 30}.mode-{mode}", says_, z, {"mode": mode}
        yield "als_sweep", f"units.{power + 30}", says, {**sides, "power": power}, {}
        for unit in ("power", "square"):
            z, title = {"rows": 5, "rank": 3, unit: power}, f"units.{unit}-{power + 30}"
            yield "admm_step", title, says, z, _I8
            yield "descend_rows", title, says, z, _I4
            yield "nearest_plane", title, says, z, _I4
            yield "closest_rows", title, says, z, {"qmin": -4, "qmax": 3}
            yield "refit_scale", title, says, z, {}
        z = {**sides, "powers": [power, -power, 0], "weights": 1}
        yield "balance", f"units.{power + 30}", says, z, {}
    z = {**sides, "powers": [-76, 70, 6], "weights": 1}
    yield "balance", "units.short-columns", "The square of a length underflows in float32.", z, {}
    for near in (18, 21):
        says = f"Two components are parallel but for one part in 2**{near}."
        for mode in range(3):
            z = {**sides, "near": near}
            yield "als_update", f"parallel.{near}.mode-{mode}", says, z, {"mode": mode}

"""Adapters: what may be declared, how one case is executed in this process."""

from fractions import Fraction
from types import ModuleType

import kit_cases
import misbehaving
import numpy as np
import pytest

from qcp_ref.conformance import Adapter, Unsupported
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.spec import Arithmetic


def test_result_of_a_right_adapter():
    reply = execute(misbehaving.good, kit_cases.PLAIN)
    assert decode(reply["out"]["values"]).tolist() == [[-4, 0], [3.5, 1.5]]


@pytest.mark.parametrize("name", ["raises", "mutates", "forgets", "strange", "twice"])
def test_what_is_wrong_is_said_in_one_word(name):
    reply = execute(getattr(misbehaving, name), kit_cases.ZERO)
    assert reply["word"] == misbehaving.WORDS[name]
    assert reply["error"]


def test_too_few_results_are_a_wrong_shape():
    impl = Adapter("one")
    impl.ops["choose_affine"] = lambda x, **range_of_codes: [x]
    case = {"op": "choose_affine", "in": {"x": encode(np.ones(2))}}
    reply = execute(impl, case | {"options": {"qmin": 0, "qmax": 1}})
    assert reply["word"] == "wrong-shape"


def test_unsupported_names_its_capability():
    assert execute(misbehaving.partial, kit_cases.ZERO) == {"unsupported": "affine"}
    assert "out" in execute(misbehaving.partial, kit_cases.PLAIN)


@pytest.mark.parametrize("layout", ["", "fortran", "sliced", "negative", "read-only"])
def test_layouts(layout):
    seen = []
    impl = Adapter("layouts")

    @impl.op
    def dequantize(codes, scale, zero_point):
        seen.append(codes)
        return misbehaving.right(codes, scale, zero_point)

    case = {**kit_cases.PLAIN, "layout": layout}
    assert execute(impl, case) == execute(misbehaving.good, kit_cases.PLAIN)
    flags, strides = seen[0].flags, seen[0].strides
    assert {
        "": flags.c_contiguous and flags.writeable,
        "fortran": flags.f_contiguous and not flags.c_contiguous,
        "sliced": strides[-1] == 2,
        "negative": strides[-1] == -1,
        "read-only": not flags.writeable,
    }[layout]


def test_conversions_apply_to_every_array():
    impl = Adapter("lists", to=lambda a: a.tolist(), back=lambda a: np.array(a, float))

    @impl.op
    def reconstruct(factors, weights):
        assert isinstance(factors, list)
        assert isinstance(factors[0], list)
        assert weights is None
        return [[factors[0][0][0] * factors[1][0][0]]]

    one = encode(np.array([[2.0]]))
    case = {"op": "reconstruct", "in": {"factors": [one, one], "weights": None}, "options": {}}
    assert decode(execute(impl, case)["out"]["X"]).tolist() == [[4.0]]


def test_results_of_other_libraries_are_known_by_what_they_can_do():
    class Tensor:
        def __init__(self, steps):
            self.steps = steps

        def detach(self):
            return Tensor([*self.steps, "detach"])

        def cpu(self):
            assert self.steps == ["detach"]
            return np.ones(2)

    assert Adapter("torch").back(Tensor([])).tolist() == [1, 1]


def test_a_module_with_the_right_names_is_an_adapter():
    module = ModuleType("mylib")
    module.dequantize, module.helper, module.__version__ = misbehaving.right, print, "2.1"
    impl = Adapter.of(module)
    assert (impl.name, impl.version, list(impl.ops)) == ("mylib", "2.1", ["dequantize"])
    with pytest.raises(ValueError, match="functions named like operations"):
        Adapter.of(ModuleType("empty"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapter("a", arith="f8"), "arith"),
        (lambda: Adapter("a", arith="tf32>f16"), "arith"),
        (lambda: Adapter("a", rounding="up"), "rounding"),
        (lambda: Adapter("a", colour="red"), "colour"),
        (lambda: Adapter("a").lacks("speed"), "lacks"),
        (lambda: Adapter("a").op(print), "op"),
    ],
)
def test_unknown_words_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arithmetic():
    plain, mixed = Arithmetic.of("f32"), Arithmetic.of("tf32>f32")
    assert plain == (0, Fraction(1, 2**24), Fraction(1, 2**24), "f32")
    assert mixed == (Fraction(1, 2**11), Fraction(1, 2**24), Fraction(1, 2**24), "f32")
    # Half an ulp of 1 is the unit roundoff, by which the nearest number may be off.
    assert Fraction(float(np.finfo("f4").eps)) == 2 * plain.result
    assert Fraction(float(np.finfo("f8").eps)) == 2 * Arithmetic.of("f64").result


def test_unsupported_is_an_exception_of_its_own():
    assert not issubclass(Unsupported, (ValueError, NotImplementedError))

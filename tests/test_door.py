"""The door through which arguments become arrays: what is refused there, and what is not."""

from fractions import Fraction
from itertools import accumulate, repeat

import numpy as np
import pytest
from scipy import sparse

from qcp_ref import Grid, activation_scale, gram, quantize
from qcp_ref._checks import check_array, check_int, check_real
from qcp_ref._door import as_array, is_bool, part_of, shown


class Other:
    """An object of another library, with any attributes."""

    def __init__(self, made=None, **parts):
        self.made = np.ones(2) if made is None else made
        vars(self).update(parts)

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


NEST = []
NEST.append(NEST)

REFUSED = [
    (np.ma.array([1.0], mask=[True]), r"a masked array \(MaskedArray\); say .*\.filled\(value\)$"),
    (np.ma.ones(2), "a masked array"),
    (np.ma.masked, "a masked array"),
    ([np.ma.ones(2), np.ma.ones(2)], "a masked array"),
    (([[1.0, np.ma.masked]],), "a masked array"),
    (Other(np.ma.ones(2)), "a masked array"),
    (Other(mask=np.zeros(2, bool), filled=len), r"a masked array \(Other\); say what"),
    (sparse.csr_matrix(np.eye(2)), r"a sparse array \(csr_matrix\); make it dense: \.toarray\(\)"),
    (sparse.coo_array(np.eye(2)), "a sparse array"),
    (Other(todense=len), r"a sparse array \(Other\); make"),
    (Other(toarray=len), "a sparse array"),
    (Other(is_sparse=True), r"a sparse tensor \(Other\); make it dense: \.to_dense\(\)"),
    (Other(layout="torch.sparse_csr"), "a sparse tensor"),
    (Other(unit="m"), r"a quantity with units \(Other\); pass .* \.value or \.magnitude"),
    (Other(units="m"), "a quantity with units"),
    ([1.0, Other(np.ones(()), units="m")], "a quantity with units"),
    (Other(requires_grad=True), r"a Other that requires a gradient; detach it: \.detach"),
    (Other(dtype="torch.bfloat16"), r"a Other of torch.bfloat16; convert it: \.float\(\)"),
    (Other(dtype="torch.float8_e5m2"), "a Other of torch.float8_e5m2; convert"),
    (Other(is_cuda=True), r"a Other on another device; move it: \.cpu\(\)"),
    (Other(RuntimeError("not today.\nWhy")), r"Other that NumPy cannot read \(not today\); pass"),
    (Other(RuntimeError("no")), r"Other that NumPy cannot read \(no\); pass"),
    (Other(MemoryError()), r"Other that NumPy cannot read \(MemoryError\); pass"),
    ([[1.0, 2.0], [3.0]], r"list that NumPy cannot read .*equal lengths"),
    (NEST, "lists in more lists"),
    ([1.0, True], "True or False among numbers"),
    ([[1.0, 2.0], [np.True_, 1]], "True or False among numbers"),
    ([True, False], "dtype bool; convert it to floating point"),
    ("text", "dtype <U4"),
    (["1"], "dtype <U1"),
    ([Fraction(1, 2)], "dtype object"),
    (None, "dtype object; NumPy sees objects and"),
    ({}, "dtype object"),
    ([2**64], "dtype object"),
    ((x for x in [1.0]), "dtype object"),
    (np.array(["2020"], "M8[D]"), r"dtype datetime64\[D\]; subtract a date"),
    (np.array([1], "m8[s]"), r"dtype timedelta64\[s\]; divide by a unit"),
    ([1j], r"dtype complex128; pass real and .* \.real and \.imag$"),
    (np.zeros(1, [("a", float)]), r"dtype .*; convert it first, .*astype"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_numpy_would_read_wrongly_is_refused(value, message):
    """Of the right kind and in the wrong shape it is a ValueError, else a TypeError."""
    shape = "equal lengths" in message or "more lists" in message
    expected = "at most 64 axes" if "more lists" in message else "an array of real numbers"
    message = f"^the name: expected {expected}, got {message}"
    with pytest.raises(ValueError if shape else TypeError, match=message):
        as_array(value, "the name")
    with pytest.raises((TypeError, ValueError), match=r"^x: expected"):
        quantize(value, Grid(4), 1.0, 0) if value is None else check_array(value, "x")


@pytest.mark.parametrize("value", [one for one, _ in REFUSED])
def test_a_number_is_no_such_thing_either(value):
    for check in (check_int, check_real):
        with pytest.raises((TypeError, ValueError), match=r"^n: expected"):
            check(value, "n")


def test_what_is_an_ordinary_array_is_taken(tmp_path):
    class Subclass(np.ndarray):
        unit = None

    x = np.array([[1.0, 2.0]])
    on_disk = np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape)
    on_disk[:] = x
    taken = [
        x,
        x.view(Subclass),
        on_disk,
        Other(x),
        Other(x, unit=None),
        Other(x, mask=len),  # a method of data frames
        Other(x, filled=len),
        x.tolist(),
    ]
    taken += [[Other(x[0])], (x[0],), [list(x[0])], [[np.float32(1), 2]], memoryview(x)]
    for one in taken:
        found = as_array(one, "x")
        assert type(found) is np.ndarray
        assert np.array_equal(found, x)
    assert as_array(x, "x") is x


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", ">f4", "longdouble"])
def test_real_numbers_keep_their_type(dtype):
    x = np.ones(2, dtype)
    assert as_array(x, "x") is x


def test_what_is_no_integer_is_answered_by_what_to_do():
    for one, message in (
        (Other(units="m"), r"an array of real numbers, got a quantity with units"),
        (np.ma.array(3), r"an array of real numbers, got a masked array"),
        (Other(np.ones(())), r"an integer, got <.*Other object .* of type Other$"),
    ):
        with pytest.raises(TypeError, match=f"^n: expected {message}"):
            check_int(one, "n")


def test_a_number_of_python_is_one_whatever_its_class_adds():
    class Side(int):
        unit = "mm"

    assert as_array([Side(3), 1.5], "x").tolist() == [3.0, 1.5]
    assert check_int(Side(3), "n") == 3


def test_lists_may_be_as_deep_as_an_array_has_axes():
    *_, most, more = accumulate(repeat(None, 65), lambda inner, _: [inner], initial=7)
    assert as_array(most, "x").shape == (1,) * 64
    with pytest.raises(ValueError, match=r"^x: expected at most 64 axes, got lists in more lists$"):
        as_array(more, "x")


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        *((one, True) for one in (True, np.False_, np.array([True]), Other(dtype="torch.bool"))),
        *((one, False) for one in (0, 1.0, np.int8(1), np.array([1]), "bool", Other(dtype=None))),
    ],
)
def test_truth_values_are_known_in_any_library(value, answer):
    assert is_bool(value) is answer


def test_a_part_that_cannot_be_read_is_absent():
    class Closed:
        @property
        def unit(self):
            raise RuntimeError

    assert part_of(Closed(), "unit") is None
    assert part_of(Closed(), "mask") is None
    assert part_of(Other(unit="m"), "unit") == "m"


def test_a_mask_does_not_set_the_scale():
    batch = np.ma.array([0.0, 1.0, 999.0], mask=[False, False, True])
    with pytest.raises(TypeError, match=r"^batches\[1\]: .* masked"):
        activation_scale([[0.0], batch], Grid(8))
    assert float(activation_scale([[0.0], batch.compressed()], Grid(8)).scale) < 1


def test_tensors_of_pytorch_are_answered_by_what_to_do():
    torch = pytest.importorskip("torch")
    x = torch.ones(2, 2)
    assert np.array_equal(check_array(x, "x"), np.ones((2, 2)))
    for wrong, message in (
        (torch.ones(2, 2, requires_grad=True), r"\.detach\(\)\.numpy\(\)"),
        (torch.nn.Parameter(x), "detach"),
        (x.bfloat16(), r"\.float\(\)"),
        (x.to_sparse(), r"\.to_dense\(\)"),
        (x.to(torch.complex64), r"\.real"),
        (x > 0, "dtype bool"),
    ):
        with pytest.raises(TypeError, match=rf"^factors\[1\]: expected .*{message}"):
            gram([np.ones((2, 2)), wrong])


def test_values_in_messages_are_short_whatever_they_are():
    class Silent:
        def __repr__(self):
            raise RuntimeError

    assert shown(2) == "2"
    assert shown("a\nb") == repr("a\nb")
    assert shown(10**5000) == "one of type int of 16610 bits"
    assert shown(Silent()) == "one of type Silent"
    assert len(shown(list(range(10**4)))) == 120
    assert shown(np.eye(2)) == "array([[1., 0.], [0., 1.]])"
    for length in (119, 120):
        assert shown("a" * (length - 2)) == repr("a" * (length - 2))
    assert shown("a" * 119) == f"'{'a' * 116}..."


# --- planted faults -------------------------------------------------------------------------------


def test_a_door_that_does_not_look_is_caught(monkeypatch):
    from qcp_ref import _door

    monkeypatch.setattr(_door, "refuse_foreign", lambda x, name, depth=0: False)
    with pytest.raises(pytest.fail.Exception):
        test_a_mask_does_not_set_the_scale()
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        test_what_numpy_would_read_wrongly_is_refused(*REFUSED[3])

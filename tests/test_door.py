"""The door through which arguments become arrays: what is refused there, and what is not."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from qcp_ref import Grid, activation_scale, gram, quantize
from qcp_ref._checks import check_array, check_int, check_real
from qcp_ref._door import as_array, shown


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
    (np.ma.array([1.0, 999.0], mask=[False, True]), r"a masked array .*\.filled\(value\)"),
    (np.ma.ones(2), "a masked array"),
    (np.ma.masked, "a masked array"),
    ([np.ma.ones(2), np.ma.ones(2)], "a masked array"),
    (([[1.0, np.ma.masked]],), "a masked array"),
    (Other(np.ma.ones(2)), "a masked array"),
    (Other(mask=np.zeros(2, bool), filled=len), "a masked array"),
    (sparse.csr_matrix(np.eye(2)), r"a sparse array .*\.toarray\(\)"),
    (sparse.coo_array(np.eye(2)), "a sparse array"),
    (Other(todense=len), "a sparse array"),
    (Other(is_sparse=True), r"a sparse tensor .*\.to_dense\(\)"),
    (Other(unit="m"), r"a quantity with units .*\.value or \.magnitude"),
    (Other(units="m"), "a quantity with units"),
    ([1.0, Other(np.ones(()), units="m")], "a quantity with units"),
    (Other(requires_grad=True), r"requires a gradient; .*\.detach\(\)\.numpy\(\)"),
    (Other(dtype="torch.bfloat16"), r"of torch.bfloat16; .*\.float\(\)"),
    (Other(is_cuda=True), r"on another device; .*\.cpu\(\)"),
    (Other(RuntimeError("not today")), r"Other that NumPy cannot read \(not today\)"),
    (Other(MemoryError()), "cannot read"),
    ([[1.0, 2.0], [3.0]], r"list that NumPy cannot read .*equal lengths"),
    (NEST, "lists in more lists"),
    ([1.0, True], "True or False among numbers"),
    ([[1.0, 2.0], [np.True_, 1]], "True or False among numbers"),
    ([True, False], "dtype bool"),
    ("text", "dtype <U4"),
    (["1"], "dtype <U1"),
    ([Fraction(1, 2)], "dtype object"),
    (None, "dtype object"),
    ({}, "dtype object"),
    ([2**64], "dtype object"),
    ((x for x in [1.0]), "dtype object"),
    (np.array(["2020"], "M8[D]"), "dtype datetime64.*subtract a date"),
    (np.array([1], "m8[s]"), "dtype timedelta64.*divide by a unit"),
    ([1j], r"dtype complex128; .*\.real and \.imag"),
    (np.zeros(1, [("a", float)]), "dtype .*astype"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_numpy_would_read_wrongly_is_refused(value, message):
    with pytest.raises((TypeError, ValueError), match=f"^the name: expected .*{message}") as raised:
        as_array(value, "the name")
    assert raised.type in (TypeError, ValueError)
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
        x.tolist(),
    ]
    taken += [[Other(x[0])], (x[0],), [list(x[0])], [[np.float32(1), 2]], memoryview(x)]
    for one in taken:
        found = as_array(one, "x")
        assert type(found) is np.ndarray
        assert np.array_equal(found, x)
    assert as_array(x, "x") is x


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


# --- planted faults -------------------------------------------------------------------------------


def test_a_door_that_does_not_look_is_caught(monkeypatch):
    from qcp_ref import _door

    monkeypatch.setattr(_door, "refuse_foreign", lambda x, name, depth=0: False)
    with pytest.raises(pytest.fail.Exception):
        test_a_mask_does_not_set_the_scale()
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        test_what_numpy_would_read_wrongly_is_refused(*REFUSED[3])

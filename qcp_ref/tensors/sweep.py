"""What does every solver do in each mode? The normal equations of a sweep, and its error.

A sweep visits the modes one after the other. In each it needs the MTTKRP ``F`` and the Gram matrix
``G`` of the other factors; both are formed once and shared as far as possible :eq:`tensor-mttkrp`,
:eq:`tensor-gram`. The same two matrices give the error of the fit without forming the tensor
:eq:`als-error`. All solvers of this package take theirs from here: least squares, correction,
AO-ADMM and the search on the codes.

Nothing is checked: solvers check what they are given at their door.

Checked by tests/tensors/test_als.py and tests/tensors/test_tensor.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from qcp_ref._checks import Array
from qcp_ref.tensors.cp import reconstruct_core
from qcp_ref.tensors.tensor import sweep_core

__all__: list[str] = []

# Called after each sweep with its number and the relative error; a true result stops the run.
Callback = Callable[[int, float], object]
# Called with the stage ("als", "epc", "admm"), its sweep and its figure; a true result stops the
# stage.
StageCallback = Callable[[str, int, float], object]


def normal_sweep(X: Array, factors: list[Array]) -> Iterator[tuple[int, Array, Array]]:
    """Go through the modes as :func:`mttkrp_sweep`; yield mode, MTTKRP and Gram matrix.

    For solvers, whose tensors and factors are in range. The Gram matrix of each single factor is
    formed once, and again when it has changed.
    """
    others = [A.T @ A for A in factors[1:]]  # of all modes but the one whose turn it is
    for mode, F in sweep_core(np.ascontiguousarray(X), factors):
        if mode:
            A = factors[mode - 1]
            others[mode - 1] = A.T @ A
        G = others[0].copy()  # product over m != mode of A_m^T A_m  :eq:`tensor-gram`
        for product in others[1:]:
            G *= product
        yield mode, F, G  # (I_n, R), (R, R)


def fit_error(
    X: Array, size: float, factors: list[Array], F: Array, G: Array
) -> tuple[float, float]:
    """Relative error after the last mode's update and the level of its noise :eq:`als-floor`."""
    eps = np.finfo(np.float64).eps
    A = factors[-1]
    cross, own = F * A, A.T @ A
    own *= G
    # ||X - X^||^2 = ||X||^2 - 2 <F, A> + <A^T A, G>  :eq:`als-error`
    square = size**2 - 2 * float(cross.sum()) + float(own.sum())
    terms = size**2 + 2 * float(np.abs(cross).sum()) + float(np.abs(own, out=own).sum())
    floor = np.sqrt(4 * eps * terms)  # :eq:`als-floor`
    if square > (10 * floor) ** 2:
        return float(np.sqrt(square)) / size, float(floor) / size
    return dense_error(X, size, factors)  # too much has cancelled


def dense_error(X: Array, size: float, factors: Sequence[Array]) -> tuple[float, float]:
    """Form the difference and return its relative norm, and the noise of summing components."""
    difference = float(np.linalg.norm(X - reconstruct_core(factors)))
    return difference / size, summing_noise(factors) / size


def summing_noise(factors: Sequence[Array]) -> float:
    """Return what rounding may change in the sum of the components."""
    parts = reconstruct_core([np.abs(A) for A in factors])
    return float(np.finfo(np.float64).eps * factors[0].shape[1] * np.linalg.norm(parts))


def stage_callback(callback: StageCallback | None, stage: str) -> Callback | None:
    """Return the callback of one stage, which no longer has to name it."""
    return None if callback is None else partial(callback, stage)

r"""How is the secular equation of error-preserving correction solved?

The least factor whose error stays within its bound is a ridge :eq:`epc-ridge`. Its weight ``tau``
is the one root of :eq:`epc-secular`, an equation in the eigenvalues of the Gram matrix. Newton's
method in ``1 / tau`` climbs to it from one side :eq:`epc-newton`, from the lower end of a bracket
that is known :eq:`epc-bracket`.

Nothing is checked here: the chapter on the correction, which stands on this one, does.

Checked by tests/factors/test_epc.py.
"""

import numpy as np

from qcp_ref._checks import Array

__all__: list[str] = []

_RELATIVE_NULL = 1e-14  # eigenvalues of the Gram matrix below this share count as zero
_ALIKE = 2.0  # ratio of columns' lengths up to which the scaling to unit diagonal changes little
_NEWTON_STEPS = 100


def spectrum(G: Array) -> tuple[Array, Array]:
    """Return the eigenvalues above the rounding level, ascending, and their eigenvectors.

    What is above it is judged at unit diagonal. Where columns differ in length, Jacobi rotations of
    a root of the matrix, ``G = C.T C``, find small eigenvalues as well as large ones, relatively.
    """
    d = np.sqrt(np.diag(G))
    alive = d > 0
    if not alive.any() or d.max() <= _ALIKE * d[alive].min():
        values, V = np.linalg.eigh(G)
        alive = values > _RELATIVE_NULL * values[-1]
        return values[alive], V[:, alive]
    from scipy.linalg.lapack import dgejsv

    safe = np.where(alive, d, 1.0)
    values, V = np.linalg.eigh(G / safe / safe[:, None])
    alive = values > _RELATIVE_NULL * values[-1]
    C = np.sqrt(np.where(alive, values, 0.0))[:, None] * V.T * d
    singular, _, V, work, _, _ = dgejsv(C, joba=0, jobu=3, jobv=0)
    roots = singular[: alive.sum()][::-1] * (work[0] / work[1])
    return roots**2, V[:, : alive.sum()][:, ::-1]


def secular_root(b: Array, sigma: Array, room: float) -> float:
    """Solve the secular equation by Newton's method in ``x = 1 / tau``."""
    # p(x)^2 = sum_r b_r / (1 + sigma_r x)^2 = s  :eq:`epc-secular`, :eq:`epc-newton`
    total = float(b.sum())
    kappa = np.sqrt(room / total) if total > 0 else 1.0
    if not 0 < kappa < 1:
        return np.inf if kappa > 0 else 0.0
    # By powers of two, which round nothing, to about one: products then stay in range.
    size, unit = 2.0 ** -np.frexp(total)[1], 2.0 ** -np.frexp(sigma.max())[1]
    b, room, sigma = b * size, room * size, sigma * unit
    # 1/p is concave: from the lower end of the bracket :eq:`epc-bracket` iterates rise to the root.
    x = (1 - kappa) / (kappa * sigma.max())
    for _ in range(_NEWTON_STEPS):
        r = 1 / (1 + sigma * x)
        q = r / r.max()  # of about one, so that no power of them vanishes
        square, slope = (b * q**2).sum(), (b * sigma * q**3).sum()
        # x <- x + (p / sqrt(s) - 1) p^2 / sum_r b_r sigma_r / (1 + sigma_r x)^3
        step = (r.max() * np.sqrt(square) / np.sqrt(room) - 1) * square / (r.max() * slope)
        if step <= 2 * np.finfo(np.float64).eps * x:
            break
        x += step
    return float(1 / x / unit)

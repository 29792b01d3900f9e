"""The paper on one page: CP factors on a quantization grid. Plain NumPy, no checks.

Each chapter says which of these lines it makes right for every input. tests/test_minimal.py checks.
"""

import numpy as np


def khatri_rao(factors):
    """K[(i, j, ...), r] = A[i, r] B[j, r] ..., last index fastest :eq:`tensor-khatri-rao`."""
    *first, A = factors
    return (khatri_rao(first)[:, None] * A).reshape(-1, A.shape[1]) if first else A  # (I J ..., R)


def reconstruct(factors):
    """X[i, j, ...] = sum_r A[i, r] B[j, r] ... :eq:`cp-model`."""
    return khatri_rao(factors).sum(axis=1).reshape([len(A) for A in factors])  # (I_0, I_1, ...)


def normal_equations(X, factors, n):
    """F = X_(n) K and G = K^T K, K of the other factors :eq:`tensor-mttkrp`, :eq:`tensor-gram`."""
    K = khatri_rao([A for m, A in enumerate(factors) if m != n])  # (the other sides, R)
    return np.moveaxis(X, n, 0).reshape(X.shape[n], -1) @ K, K.T @ K  # (I_n, R), (R, R)


def als_update(X, factors, n):
    """Solve A G = F: the best factor of mode n, the others fixed :eq:`als-normal`."""
    F, G = normal_equations(X, factors, n)
    return np.linalg.solve(G, F.T).T  # (I_n, R)


def cp_als(X, rank, rng, sweeps=50):
    """Alternating least squares: update one mode after the other, again and again."""
    factors = [rng.standard_normal((side, rank)) for side in X.shape]  # (I_n, R) each
    for n in [*range(X.ndim)] * sweeps:
        factors[n] = als_update(X, factors, n)
    return factors


def balance(factors):
    """Return the same tensor, the columns of a component equally long :eq:`cp-freedom`."""
    norms = np.array([np.linalg.norm(A, axis=0) for A in factors])  # (d, R)
    shares = norms.prod(axis=0) ** (1 / len(factors)) / np.where(norms > 0, norms, 1)
    return [A * share for A, share in zip(factors, shares, strict=True)]


def epc_update(X, factors, n, delta):
    """Least components: minimise sum_r sigma_r^2 with ||X - X^|| <= delta :eq:`epc-problem`."""
    F, G = normal_equations(X, factors, n)
    length = np.sqrt(np.diag(G))  # of the other columns; with length 1, U[:, r] has norm sigma_r
    g, V = np.linalg.eigh(G / np.outer(length, length))  # (R,), (R, R)
    P = F / length @ V  # (I_n, R)
    b = (P**2).sum(axis=0) / g
    s = delta**2 - (X**2).sum() + b.sum()  # room above the least error :eq:`epc-secular`
    if s <= 0 or s >= b.sum():
        return factors[n] if s <= 0 else 0 * F  # there is no room; or zero obeys the bound
    x = (np.sqrt(b.sum() / s) - 1) / g[-1]  # 1 / tau, from below :eq:`epc-bracket`
    for _ in range(30):  # Newton's method :eq:`epc-newton`
        p = np.sqrt((b / (1 + g * x) ** 2).sum())
        x += (p / np.sqrt(s) - 1) * p**2 / (b * g / (1 + g * x) ** 3).sum()
    return P / (g + 1 / x) @ V.T / length  # U = F (G + tau I)^-1 :eq:`epc-ridge`


def epc(X, factors, sweeps=500):
    """Error-preserving correction: shrink the components of a fit that is not exact."""
    factors, delta = balance(factors), np.linalg.norm(X - reconstruct(factors))
    for n in [*range(X.ndim)] * sweeps:
        factors[n] = epc_update(X, factors, n, delta)
    return balance(factors)


def choose_scale(x, qmin, qmax):
    """Return the scale of least ||x - s k||^2 = ||x||^2 - <x, k>^2 / <k, k> :eq:`grid-exact`."""
    x, k = np.broadcast_arrays(x.reshape(-1, 1), np.arange(max(-qmin, qmax)))  # (entries, codes)
    turns = k < np.where(x < 0, -qmin, qmax)  # |k| becomes |k| + 1 where s is |x| / (|k| + 1/2)
    x, k = np.append(abs(x[turns]), 0), np.append(k[turns], 0)  # a last one, if nothing turns
    order = np.argsort(-x / (k + 0.5))  # as s falls
    xk, kk = np.cumsum(x[order]), np.cumsum(2 * k[order] + 1)  # <x, k>, <k, k> after each turn
    return (xk / kk)[np.argmax(xk**2 / kk)] or 1.0  # s = <x, k> / <k, k>; any s for x = 0


def project(x, qmin, qmax, scale=None):
    """Return s k nearest to x, k = clip(round(x / s), qmin, qmax), k and s :eq:`grid-quantize`."""
    scale = choose_scale(x, qmin, qmax) if scale is None else scale
    codes = np.clip(np.rint(x / scale), qmin, qmax)
    return scale * codes, codes, scale


def admm_step(F, G, H, U, rho, project):
    """Step to the best factor in a set :eq:`admm-t` to :eq:`admm-u`; shapes (I_n, R)."""
    T = np.linalg.solve(G + rho * np.eye(len(G)), (F + rho * (H + U)).T).T  # least squares, pulled
    H, codes, scale = project(T - U)  # the nearest point of the set
    return T, H, U + H - T, codes, scale


def ao_admm(X, factors, qmin, qmax, sweeps=25, steps=30):
    """Put all factors on grids, by ADMM on one mode after the other :eq:`qcp-problem`."""
    state, best = [(A, A, 0, 0, 0) for A in balance(factors)], (np.inf,)  # T, H, U, k, s by mode
    for _ in range(sweeps):
        for n in range(X.ndim):
            F, G = normal_equations(X, [H for _, H, *_ in state], n)
            rho = np.trace(G) / len(G)  # :eq:`admm-rho`
            for _ in range(steps):
                state[n] = admm_step(F, G, *state[n][1:3], rho, lambda V: project(V, qmin, qmax))
        _, factors, _, codes, scales = zip(*state, strict=True)
        error = np.linalg.norm(X - reconstruct(factors)) / np.linalg.norm(X)  # :eq:`cp-error`
        best = min(best, (error, codes, scales), key=lambda found: found[0])
    return best  # X^ = reconstruct(scales * codes)


def cp_conv2d(x, factors, size, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """Convolve with W[o, c, ij] = sum_r A[o, r] B[c, r] C[ij, r], in three steps :eq:`conv-cp`."""
    A, B, C = factors  # (out, R), (in, R), (k_h k_w, R)
    z = np.einsum("nchw,cr->nrhw", x, B)  # 1x1: input channels to components
    z = np.pad(z, [(0, 0), (0, 0), padding[::2], padding[1::2]])  # top and bottom, left and right
    span = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    z = np.lib.stride_tricks.sliding_window_view(z, span, axis=(2, 3))  # (N, R, H, W, k_h, k_w)
    z = z[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    z = np.einsum("nrhwij,ijr->nrhw", z, C.reshape(*size, -1))  # each component by itself
    return np.einsum("nrhw,or->nohw", z, A)  # 1x1: components to output channels

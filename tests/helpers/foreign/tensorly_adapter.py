"""TensorLy: reconstruction, MTTKRP and a sweep of alternating least squares."""

import numpy as np
import tensorly
from tensorly.cp_tensor import CPTensor, cp_to_tensor, unfolding_dot_khatri_rao
from tensorly.decomposition import parafac

from qcp_ref.conformance import Adapter

impl = Adapter("tensorly", tensorly.__version__, arith="f64")
impl.lacks("refuses", "rank-deficient")  # what it takes is listed in test_foreign.py


@impl.op
def reconstruct(factors, weights):
    return cp_to_tensor((weights, factors))


@impl.op
def mttkrp(X, factors, *, mode):
    return unfolding_dot_khatri_rao(X, (None, factors), mode)


@impl.op
def als_sweep(X, factors):
    start = CPTensor((np.ones(factors[0].shape[1]), [A.copy() for A in factors]))
    rank = factors[0].shape[1]
    _, found = parafac(X, rank, n_iter_max=1, init=start, tol=None, normalize_factors=False)
    return found


@impl.op
def cp_als(X, *, rank, seed):
    weights, factors = parafac(X, rank, init="random", random_state=seed, tol=1e-8)
    fitted = cp_to_tensor((weights, factors))
    return factors, np.array(np.linalg.norm(X - fitted) / np.linalg.norm(X))

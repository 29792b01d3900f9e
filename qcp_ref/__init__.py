"""Quantization-aware CP factorization, the reference: a book to read, to run and to check against.

The chapters, in reading order.
"""

from qcp_ref.admm import ADMMResult, admm
from qcp_ref.als import ALSUpdate, CPFit, FitHistory, als_update, cp_als
from qcp_ref.bounds import gamma, rounding_bound
from qcp_ref.cp import (
    CP,
    Alignment,
    Degeneracy,
    align,
    balance,
    canonical,
    degeneracy,
    inner,
    norm,
    normalize,
    random_cp,
    reconstruct,
    relative_error,
)
from qcp_ref.tensor import fold, gram, khatri_rao, mttkrp, mttkrp_sweep, unfold

__version__ = "0.1.0"

__all__ = [
    "ADMMResult",
    "ALSUpdate",
    "Alignment",
    "CP",
    "CPFit",
    "Degeneracy",
    "FitHistory",
    "admm",
    "align",
    "als_update",
    "balance",
    "canonical",
    "cp_als",
    "degeneracy",
    "fold",
    "gamma",
    "gram",
    "inner",
    "khatri_rao",
    "mttkrp",
    "mttkrp_sweep",
    "norm",
    "normalize",
    "random_cp",
    "reconstruct",
    "relative_error",
    "rounding_bound",
    "unfold",
]

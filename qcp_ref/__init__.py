"""Quantization-aware CP factorization, the reference: a book to read, to run and to check against.

The chapters, in reading order.
"""

from qcp_ref.bounds import gamma, rounding_bound
from qcp_ref.tensor import fold, gram, khatri_rao, mttkrp, mttkrp_sweep, unfold
from qcp_ref.cp import (
    Alignment,
    CP,
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
from qcp_ref.als import ALSUpdate, CPFit, FitHistory, als_update, cp_als
from qcp_ref.grid import Grid, Scale, choose_scale, dequantize, project, quantize
from qcp_ref.ranges import Histogram, activation_scale, histogram_error, histogram_range
from qcp_ref.admm import ADMMResult, admm
from qcp_ref.epc import EPCFit, EPCHistory, EPCUpdate, epc, epc_update
from qcp_ref.qcp import QuantizedCP, QuantizedFit, QuantizedHistory, ao_admm, factorize, quantize_cp
from qcp_ref.conv import (
    conv1d,
    conv2d,
    conv3d,
    cp_conv1d,
    cp_conv2d,
    cp_conv3d,
    cp_conv_bound,
    cp_linear,
    depthwise,
    kernel_to_tensor,
    pointwise,
    tensor_to_kernel,
)
from qcp_ref.integer import (
    IntegerCP,
    accumulator_bound,
    fixed_point,
    int_conv,
    int_linear,
    integer_cp,
    requantize,
)
from qcp_ref.cost import Costs, conv_costs, equal_cost_bits, rank_for_rate
from qcp_ref.layer import CPConv, CPLinear, compress_conv, compress_linear

__version__ = "0.1.0"

__all__ = [
    "CP",
    "ADMMResult",
    "ALSUpdate",
    "Alignment",
    "CPConv",
    "CPFit",
    "CPLinear",
    "Costs",
    "Degeneracy",
    "EPCFit",
    "EPCHistory",
    "EPCUpdate",
    "FitHistory",
    "Grid",
    "Histogram",
    "IntegerCP",
    "QuantizedCP",
    "QuantizedFit",
    "QuantizedHistory",
    "Scale",
    "accumulator_bound",
    "activation_scale",
    "admm",
    "align",
    "als_update",
    "ao_admm",
    "balance",
    "canonical",
    "choose_scale",
    "compress_conv",
    "compress_linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_costs",
    "cp_als",
    "cp_conv1d",
    "cp_conv2d",
    "cp_conv3d",
    "cp_conv_bound",
    "cp_linear",
    "degeneracy",
    "depthwise",
    "dequantize",
    "epc",
    "epc_update",
    "equal_cost_bits",
    "factorize",
    "fixed_point",
    "fold",
    "gamma",
    "gram",
    "histogram_error",
    "histogram_range",
    "inner",
    "int_conv",
    "int_linear",
    "integer_cp",
    "kernel_to_tensor",
    "khatri_rao",
    "mttkrp",
    "mttkrp_sweep",
    "norm",
    "normalize",
    "pointwise",
    "project",
    "quantize",
    "quantize_cp",
    "random_cp",
    "rank_for_rate",
    "reconstruct",
    "relative_error",
    "requantize",
    "rounding_bound",
    "tensor_to_kernel",
    "unfold",
]

"""Quantization-aware CP factorization, the reference: a book to read, to run and to check against.

The chapters, in reading order.
"""

from qcp_ref.bounds import gamma, rounding_bound
from qcp_ref.tensors.tensor import fold, gram, khatri_rao, mttkrp, mttkrp_sweep, unfold
from qcp_ref.tensors.cp import (
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
from qcp_ref.tensors.svd import svd_cp
from qcp_ref.tensors.als import ALSUpdate, CPFit, FitHistory, als_update, cp_als
from qcp_ref.grids.grid import Grid, Scale, dequantize, quantize
from qcp_ref.grids.scale import choose_scale, project
from qcp_ref.factors.quantized import (
    Prediction,
    QuantizedCP,
    QuantizedFit,
    QuantizedHistory,
    orient,
    predict_error,
    quantize_cp,
)
from qcp_ref.factors.epc import EPCFit, EPCHistory, EPCUpdate, epc, epc_update, sensitivity
from qcp_ref.factors.admm import ADMMResult, admm
from qcp_ref.factors.ao_admm import ao_admm
from qcp_ref.factors.rows import RowFit, refit_scale, solve_rows
from qcp_ref.factors.search import Certificate, certify, polish
from qcp_ref.factors.methods import SlackSearch, choose_slack, factorize
from qcp_ref.layers.conv import (
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
from qcp_ref.layers.cost import Costs, conv_costs, equal_cost_bits, rank_for_rate
from qcp_ref.layers.output import (
    OutputFit,
    output_als,
    output_error,
    output_normal,
    polish_output,
    second_moment,
)
from qcp_ref.layers.layer import CPConv, CPLinear, compress_conv, compress_linear
from qcp_ref.layers.ranges import Histogram, activation_scale, histogram_error, histogram_range
from qcp_ref.layers.integer import (
    IntegerCP,
    accumulator_bound,
    fixed_point,
    int_conv,
    int_linear,
    integer_cp,
    requantize,
)
from qcp_ref.networks.jobs import run_jobs
from qcp_ref.networks.frontier import Choice, frontier, rank_for_budget
from qcp_ref.networks.allocation import Allocation, allocate

__version__ = "0.1.0"

__all__ = [
    "CP",
    "ADMMResult",
    "ALSUpdate",
    "Alignment",
    "Allocation",
    "CPConv",
    "CPFit",
    "CPLinear",
    "Certificate",
    "Choice",
    "Costs",
    "Degeneracy",
    "EPCFit",
    "EPCHistory",
    "EPCUpdate",
    "FitHistory",
    "Grid",
    "Histogram",
    "IntegerCP",
    "OutputFit",
    "Prediction",
    "QuantizedCP",
    "QuantizedFit",
    "QuantizedHistory",
    "RowFit",
    "Scale",
    "SlackSearch",
    "accumulator_bound",
    "activation_scale",
    "admm",
    "align",
    "allocate",
    "als_update",
    "ao_admm",
    "balance",
    "canonical",
    "certify",
    "choose_scale",
    "choose_slack",
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
    "frontier",
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
    "orient",
    "output_als",
    "output_error",
    "output_normal",
    "pointwise",
    "polish",
    "polish_output",
    "predict_error",
    "project",
    "quantize",
    "quantize_cp",
    "random_cp",
    "rank_for_budget",
    "rank_for_rate",
    "reconstruct",
    "refit_scale",
    "relative_error",
    "requantize",
    "rounding_bound",
    "run_jobs",
    "second_moment",
    "sensitivity",
    "solve_rows",
    "svd_cp",
    "tensor_to_kernel",
    "unfold",
]

"""The bundled network: its files, inference in NumPy, and what a change of the accuracy is worth.

Read in this order: ``bundled`` (files, kernels, images), ``inference`` (logits, batch norm
recalibrated on calibration images, a bound on the rounding error), ``interval`` (the confidence
interval of a change of the accuracy). Checked by tests/app/network/.
"""

from qcp_ref.app.network.bundled import (
    KERNELS,
    Images,
    Kernel,
    Network,
    load_images,
    load_manifest,
    load_network,
)
from qcp_ref.app.network.inference import Layers, logit_bound, predict, recalibrate
from qcp_ref.app.network.interval import AccuracyChange, accuracy_interval

__all__ = [
    "KERNELS",
    "AccuracyChange",
    "Images",
    "Kernel",
    "Layers",
    "Network",
    "accuracy_interval",
    "load_images",
    "load_manifest",
    "load_network",
    "logit_bound",
    "predict",
    "recalibrate",
]

import torch
import torch.nn.functional as F

from qcp_ref.conformance import Adapter

impl = Adapter("mylib", "0.3", arith="f32", to=lambda a: torch.from_numpy(a.copy()))
impl.lacks("refuses")


@impl.op
def conv2d(x, W, bias, *, stride, padding, dilation):
    top, left, bottom, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), W, bias, stride, dilation=dilation)

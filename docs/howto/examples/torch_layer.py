"""A Conv2d of PyTorch as three, with codes and scales beside the weights."""

import torch
from torch import nn

from qcp_ref import compress_conv


def stages(conv, rank, dtype=torch.int8):
    """Three convolutions that take the place of ``conv``, not yet filled."""
    if conv.groups != 1 or conv.padding_mode != "zeros" or conv.kernel_size == (1, 1):
        raise ValueError(f"not for this kind of layer: {conv}")
    inputs, outputs, size = conv.in_channels, conv.out_channels, conv.kernel_size
    place = {name: getattr(conv, name) for name in ("stride", "padding", "dilation")}
    three = nn.Sequential()
    three.add_module("first", nn.Conv2d(inputs, rank, 1, bias=False))
    three.add_module("middle", nn.Conv2d(rank, rank, size, groups=rank, bias=False, **place))
    three.add_module("last", nn.Conv2d(rank, outputs, 1, bias=conv.bias is not None))
    three.to(conv.weight)  # device and precision
    for stage in three:
        stage.register_buffer("codes", torch.zeros_like(stage.weight, dtype=dtype))
        stage.register_buffer("scale", torch.ones((), dtype=torch.float64))
    return three


@torch.no_grad()
def fill(three, cp, bias):
    """Copy codes and scales, and the weights that they stand for."""
    layouts = {
        three.last: lambda A: A[:, :, None, None],
        three.first: lambda A: A.T[:, :, None, None],
        three.middle: lambda A: A.T.reshape(three.middle.weight.shape),
    }
    found = zip(cp.codes, cp.scales, cp.dequantize().factors, strict=True)
    for (stage, layout), (codes, scale, values) in zip(layouts.items(), found, strict=True):
        stage.codes.copy_(layout(torch.tensor(codes)))
        stage.scale.copy_(torch.tensor(scale))
        stage.weight.copy_(layout(torch.tensor(values)))
    if bias is not None:
        three.last.bias.copy_(bias)


def compress(model, name, **options):
    """Replace the Conv2d of that name inside ``model``; return what compress_conv found."""
    conv = model.get_submodule(name)
    kernel = conv.weight.detach().cpu().double().numpy()
    layer = compress_conv(kernel, **options)
    three = stages(conv, layer.rank, torch.tensor(layer.cp.codes[0]).dtype)
    fill(three, layer.cp, conv.bias)
    model.set_submodule(name, three)
    return layer

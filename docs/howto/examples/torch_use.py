"""The example of the page on PyTorch, from the layer to the check."""

# begin
import numpy as np
import torch
from torch import nn
from torch_layer import compress

from qcp_ref import CP, conv2d, cp_conv_bound, reconstruct, tensor_to_kernel

torch.manual_seed(0)
conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
model = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(16, 4, 1))
layer = compress(model, "0", rate=2, bits=4)
# check
x = torch.randn(2, 8, 13, 13)
with torch.no_grad():
    y = model[0](x).numpy()

cp = CP([A.astype(np.float32) for A in layer.cp.dequantize().factors])
place = {"stride": 2, "padding": 1, "bias": conv.bias.detach().numpy()}
dense = conv2d(x.numpy(), tensor_to_kernel(reconstruct(cp), (3, 3)), **place)
bound = cp_conv_bound(x.numpy(), cp, kernel_size=3, **place)
assert np.all(abs(y - dense) <= bound)
# names
for name, value in model.state_dict().items():
    kind = str(value.dtype).removeprefix("torch.")
    print(f"{name:<16}{kind:<9}{tuple(value.shape)}")

"""Write tests/golden/encodings: run it with aimet-torch 2.42 installed, in an empty folder.

What it leaves was brought onto one line for each tensor; the numbers are as AIMET wrote them.
"""

from __future__ import annotations

import torch

from aimet_torch.quantization import affine
from aimet_torch.quantsim import QuantizationSimModel

torch.manual_seed(0)
x = torch.randn(2, 3, 8, 8)
net = torch.nn.Sequential(
    *(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)),
    *(torch.nn.Flatten(), torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 64)),
    *(torch.nn.ReLU(), torch.nn.Linear(64, 4)),
).eval()
sim = QuantizationSimModel(net, x)
sim.model[4].param_quantizers["weight"] = affine.QuantizeDequantize(
    (32, 2), 4, True, block_size=(1, 4)
)
sim.model[6].param_quantizers["weight"] = affine.GroupedBlockQuantizeDequantize(
    (64, 4), 4, True, decompressed_bw=8, block_size=(1, 8), block_grouping=(1, -1)
)
sim.compute_encodings(lambda model: model(x))
for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0"):
    sim.onnx.export(
        (x,),
        f"aimet_2_42_{version}.onnx",
        encoding_version=version,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
    )

"""Make low_rank_2_42.npz: spatial and weight SVD of three layers, by aimet-torch 2.42.0.

Usage, in an environment with it instead of this project: ``python make_low_rank.py OUT.npz``.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from aimet_torch.svd.svd_splitter import SpatialSvdModuleSplitter, WeightSvdModuleSplitter

random = np.random.default_rng(0)
LAYERS = {
    "spatial": (torch.nn.Conv2d(12, 16, 3), SpatialSvdModuleSplitter, 7),
    "spatial_wide": (torch.nn.Conv2d(8, 10, (3, 5)), SpatialSvdModuleSplitter, 11),
    "weight": (torch.nn.Conv2d(12, 16, 3), WeightSvdModuleSplitter, 5),
    "linear": (torch.nn.Linear(20, 14), WeightSvdModuleSplitter, 6),
}
arrays = {}
for name, (layer, splitter, rank) in LAYERS.items():
    values = random.standard_normal(tuple(layer.weight.shape)).astype(np.float32)
    layer.weight.data = torch.from_numpy(values)
    first, second = splitter.split_module(layer, rank)
    for key, tensor in (("weight", values), ("first", first.weight), ("second", second.weight)):
        arrays[f"{name}.{key}"] = np.asarray(
            tensor.detach() if isinstance(tensor, torch.Tensor) else tensor
        )
np.savez_compressed(sys.argv[1], **arrays)

import torch

from aimet_torch import QuantizationSimModel
from aimet_torch.cross_layer_equalization import equalize_model

model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
batches = torch.randn(4, 16, 3, 32, 32)  # yours: a data loader, or any iterable of batches

equalize_model(model.eval(), dummy_input=batches[0])  # folds batch norms, evens out channels
sim = QuantizationSimModel(model, batches[0])  # 8-bit weights and activations
sim.compute_encodings(batches)
print(sim)  # what is quantized, and how
sim.onnx.export(batches[0], "model.onnx")  # and model.encodings

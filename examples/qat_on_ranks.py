"""Quantization-aware training by several processes: see docs/qat.md."""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from aimet_torch import QuantizationSimModel
from aimet_torch.qat import fully_shard, learn_ranges, parameter_groups

dist.init_process_group()
torch.manual_seed(0)  # the same weights on every rank
images = torch.randn(1024, 1, 16, 16)  # yours
data = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
loader = DataLoader(data, batch_size=32, sampler=DistributedSampler(data))
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2))

sim = QuantizationSimModel(model, images[:1], default_param_bw=4)
sim.compute_encodings(loader, process_group=dist.group.WORLD)  # of the data of all ranks
learn_ranges(sim, "lsq")
if "--fsdp" in sys.argv:
    for part in sim.model.children():
        fully_shard(part)
    network = fully_shard(sim.model)
else:
    network = DistributedDataParallel(sim.model)
optimizer = torch.optim.SGD(parameter_groups(sim, 0.01, activation_range_lr=1e-3), momentum=0.9)
for epoch in range(2):
    loader.sampler.set_epoch(epoch)
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    print(f"rank {dist.get_rank()}, epoch {epoch}: loss {loss:.3f}")

whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
state = get_model_state_dict(sim.model, options=whole)
if dist.get_rank() == 0:
    torch.save(state, "checkpoint.pt")  # for sim.model.load_state_dict, on one rank or many
dist.destroy_process_group()

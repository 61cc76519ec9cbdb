"""FSDP2 for simulations: what cannot be cut into shards stays whole on every rank."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aimet_torch.graph.rewrite import is_inlined
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.qat.learning import model_of
from aimet_torch.quantization.base import QuantizerBase

if TYPE_CHECKING:  # they take a second to import, and only this needs them
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

__all__ = ["fully_shard"]


def fully_shard(
    module: nn.Module | list[nn.Module],
    *,
    mesh: DeviceMesh | None = None,
    mp_policy: MixedPrecisionPolicy | None = None,
    ignored_params: Iterable[nn.Parameter] = (),
    **options: Any,
) -> Any:
    """`torch.distributed.fsdp.fully_shard` for `sim.model` and its parts, used in the same way.

    Containers of a traced model, such as an `nn.Sequential`, run no forward of their own; of such
    a one the layers inside share a group, and parameters that it has itself belong to the group
    around it.

    FSDP2 refuses parameters without a dimension, which ranges of whole tensors are. Here they stay
    whole on every rank, under the same names and with the same shapes: all ranks start with the
    values of the first, and at the end of each backward pass their gradients are averaged, all in
    one exchange. What has a dimension, such as ranges of channels, is sharded like weights.

    The order is: calibrate, `aimet_torch.qat.learn_ranges`, `fully_shard` from the inside to the
    outside, then the optimizer.

    Args:
        module: what shares a group of parameters, or several modules that do.
        mesh: the ranks, in one dimension or (HSDP) two; all ranks if None.
        mp_policy: with a ``param_dtype`` of 16 bits all ranges stay whole and in float32, since a
            range in 16 bits moves by up to a step of its grid.
        ignored_params: parameters that are left alone; their gradients are not averaged.
        **options: passed on: ``reshard_after_forward``, ``shard_placement_fn``, ``offload_policy``.

    Returns:
        ``module``; what it calls is now an `FSDPModule` of torch.

    Raises:
        ValueError: a quantizer has no range yet, or a batch norm is sharded apart from the layer
            whose weight steps it reads.
        NotImplementedError: ``dp_mesh_dims`` is given.
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if options.get("dp_mesh_dims") is not None:
        raise NotImplementedError(
            "fully_shard: `dp_mesh_dims` is not supported with quantizers; pass the mesh of the "
            "data-parallel ranks alone as `mesh`"
        )
    given = [
        model_of("fully_shard", part) for part in (module if isinstance(module, list) else [module])
    ]
    roots = [part for root in given for part in _called(root)]
    if not roots:
        return module
    _check(roots)
    if mesh is None:
        accelerator = torch.accelerator.current_accelerator()
        kind = "cpu" if accelerator is None else accelerator.type
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
    policy = mp_policy or fsdp.MixedPrecisionPolicy()
    is_half = policy.param_dtype in (torch.float16, torch.bfloat16)
    whole = {id(p): p for p in _whole_parameters(roots, is_half)}
    for inner in dict.fromkeys(m for root in roots for m in root.modules()):
        synchronized = _SYNCHRONIZED.get(inner)
        if synchronized is None:
            continue
        if synchronized.mesh == mesh:  # one exchange for all of them
            whole |= {id(p): p for p in synchronized.parameters}
            synchronized.stop()
            del _SYNCHRONIZED[inner]
        else:
            whole = {k: p for k, p in whole.items() if not synchronized.holds(p)}
    for parameter in ignored_params:
        whole.pop(id(parameter), None)
    ignored = {*ignored_params, *whole.values()}
    parts = [
        part for part in roots if part in given or any(p not in ignored for p in part.parameters())
    ]
    if parts:
        fsdp.fully_shard(
            parts[0] if len(parts) == 1 else parts,
            mesh=mesh,
            mp_policy=policy,
            ignored_params=ignored,
            **options,
        )
    if whole:
        _SYNCHRONIZED[roots[0]] = _Synchronized(list(whole.values()), mesh)
    return module


def _called(module: nn.Module) -> list[nn.Module]:
    """The modules in ``module`` that the model calls; itself if it is one."""
    if not is_inlined(module):
        return [module]
    found = [part for child in module.children() for part in _called(child)]
    return list(dict.fromkeys(found))


def _check(roots: list[nn.Module]) -> None:
    inside = {m for root in roots for m in root.modules()}
    for root in roots:
        for name, module in root.named_modules():
            if isinstance(module, QuantizerBase):
                if module.calibration_issue is None and not module.is_initialized():
                    raise ValueError(
                        f"fully_shard: `module` has the quantizer {name!r} without a range; call "
                        "sim.compute_encodings before fully_shard"
                    )
            elif isinstance(module, BaseQuantizationMixin) and module.bias_grids:
                if _is_sharded(module.bias):
                    continue  # by an earlier call, which has asked the same
                for grid in module.bias_grids.values():
                    layer = grid.layer
                    is_together = layer in inside and not _is_sharded(layer.weight)
                    if grid.norm is not None and not is_together:
                        raise ValueError(
                            "fully_shard: `module` has the batch norm "
                            f"{name or type(module).__name__!r} without the layer before it, whose "
                            "weight steps it needs; shard the two together, as "
                            "fully_shard([layer, batch_norm]), or the block that holds both"
                        )


def _whole_parameters(roots: list[nn.Module], is_half: bool) -> Iterator[nn.Parameter]:
    """What is not sharded: parameters without a dimension, and ranges where others are halved."""
    for root in roots:
        for module in root.modules():
            is_quantizer = isinstance(module, QuantizerBase)
            for parameter in module.parameters(recurse=False):
                # Layers read the step of their input where it comes from: another group, perhaps.
                is_single = parameter.dim() == 0 or (is_quantizer and parameter.numel() == 1)
                is_whole = is_single or (is_quantizer and is_half)
                if is_whole and not _is_sharded(parameter):
                    yield parameter


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "device_mesh")  # a DTensor


class _Synchronized:
    """Parameters that every rank holds whole, and the averaging of their gradients.

    Args:
        parameters: in the same order on each rank.
        mesh: of the ranks.
    """

    def __init__(self, parameters: list[nn.Parameter], mesh: DeviceMesh) -> None:
        self.parameters = parameters
        self.mesh = mesh
        self._pass = -1  # the backward pass at whose end they are averaged
        self._hooks = []
        device = _device_of(mesh)
        values = self._flat([parameter.detach() for parameter in parameters])
        for dimension in range(mesh.ndim):
            dist.broadcast(values, group=mesh.get_group(dimension), group_src=0)
        for parameter, value in zip(parameters, self._split(values, parameters), strict=True):
            parameter.data = parameter.data.to(device)
            parameter.data.copy_(value)
            learns = parameter.requires_grad
            parameter.requires_grad_(True)  # a hook can only be given to what learns now
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._queue))
            parameter.requires_grad_(learns)

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter is one of them."""
        return any(parameter is own for own in self.parameters)

    def stop(self) -> None:
        """Leave the gradients alone from now on."""
        for hook in self._hooks:
            hook.remove()

    def _queue(self, _: Tensor) -> None:
        this_pass = torch._C._current_graph_task_id()
        if self._pass != this_pass:  # no flag: a pass that raises never comes to its end
            self._pass = this_pass
            # As FSDP does it: called once, when the backward pass has come to its end.
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._average)

    @torch.no_grad()
    def _average(self) -> None:
        """Average the gradients; those that accumulate stay right: their old part is equal."""
        learning = [parameter for parameter in self.parameters if parameter.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        is_used = [parameter.grad is not None for parameter in learning]
        sums = torch.cat([self._flat(grads), self._flat([torch.tensor(is_used)])])
        for dimension in range(self.mesh.ndim):
            dist.all_reduce(sums, group=self.mesh.get_group(dimension))
        users = sums[-len(learning) :]
        # To read them is to wait for the device: only where this rank has not used all.
        used = is_used if all(is_used) else (users > 0).tolist()
        means = self._split(sums[: -len(learning)] / self.mesh.size(), learning)
        for parameter, mean, is_wanted in zip(learning, means, used, strict=True):
            if is_wanted and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            if is_wanted and parameter.grad is not None:
                parameter.grad.copy_(mean)

    def _flat(self, tensors: list[Tensor]) -> Tensor:
        device = _device_of(self.mesh)
        return torch.cat([tensor.reshape(-1).to(device, torch.float64) for tensor in tensors])

    @staticmethod
    def _split(flat: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
        parts = flat.split([tensor.numel() for tensor in like])
        return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]


def _device_of(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.accelerator.current_device_index())


#: By the module that `fully_shard` was called with.
_SYNCHRONIZED: weakref.WeakKeyDictionary[nn.Module, _Synchronized] = weakref.WeakKeyDictionary()

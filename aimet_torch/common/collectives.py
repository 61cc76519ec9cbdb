"""Ranks that do one job together: what they exchange, and that none waits for one that failed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aimet_torch.ops import fingerprint

__all__ = ["PeerError", "Ranks"]

Result = TypeVar("Result")


class PeerError(RuntimeError):
    """Another rank of the process group failed; the message says which one and why."""


class Ranks:
    """The processes of a group, as a context around the job that they share.

    Every exchange begins with the question whether all are well. A rank whose part of the job
    raises answers it once more on its way out of the context, so the others, which wait in their
    next exchange or at the end of the context, raise `PeerError` instead of waiting for ever. What
    this cannot see: collectives that the user's own code calls in between, and killed processes
    (those end by the timeout or the closed connection that the backend reports).

    All ranks must call the same exchanges in the same order.

    Args:
        group: a process group, such as ``torch.distributed.group.WORLD``; None: this process alone,
            for which every exchange is the identity.
        operator: name of the function, for messages.

    Attributes:
        rank: position in the group.
        size: number of ranks.

    Raises:
        TypeError: ``group`` is no process group.
        ValueError: this process is not in the group.
    """

    def __init__(self, group: Any, operator: str) -> None:
        self._operator = operator
        self._group = group
        self._is_settled = False  # whether nobody waits for an answer any more
        self.rank, self.size = 0, 1
        if group is None:
            return
        if dist.is_available() and group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(
                f"{operator}: `process_group` does not hold this process (global rank "
                f"{dist.get_rank()}); call it on the members of the group only"
            )
        if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
            raise TypeError(
                f"{operator}: `process_group` must be a torch.distributed.ProcessGroup, such as "
                f"torch.distributed.group.WORLD, or None, got {type(group).__name__}"
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    # -- the context -------------------------------------------------------------------------------

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Ctrl-C comes to one process: it leaves at once, and the others see its connection close.
        if self._is_settled or (error is not None and not isinstance(error, Exception)):
            return
        self._meet(None if error is None else f"{type(error).__name__}: {error}")

    def _meet(self, failure: str | None = None) -> None:
        """Wait for all; raise if one of the others has failed."""
        if self.size == 1:
            return
        flag = torch.tensor([int(failure is not None)], device=self._device())
        self._exchange(lambda: dist.all_reduce(flag, dist.ReduceOp.MAX, self._group))
        if not int(flag):
            return
        failures = self._gather(failure)
        self._is_settled = True
        if failure is None:
            raise PeerError(
                f"{self._operator}: stopped, since it failed elsewhere: "
                + "; ".join(f"rank {i}: {text}" for i, text in enumerate(failures) if text)
            )

    def _exchange(self, collective: Callable[[], Result]) -> Result:
        try:
            return collective()
        except BaseException:
            self._is_settled = True  # the connection is broken: no more questions
            raise

    def _gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        self._exchange(lambda: dist.all_gather_object(found, value, group=self._group))
        return found

    def _device(self) -> torch.device:
        """Where the backend wants its tensors: the CPU if it may be."""
        if "cpu:" in dist.get_backend_config(self._group):
            return torch.device("cpu")
        found = torch.accelerator.current_accelerator()
        assert found is not None  # a backend for accelerators works with one only
        return torch.device(found.type, torch.accelerator.current_device_index())

    # -- exchanges ---------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """What each rank has given, in their order; anything that can be pickled."""
        self._meet()
        return [value] if self.size == 1 else self._gather(value)

    def count_on_this_machine(self) -> int:
        """How many of the ranks share this one's memory and processors."""
        return self.gather(socket.gethostname()).count(socket.gethostname())

    def require_equal(self, parameters: Iterable[Tensor]) -> None:
        """Make sure that the ranks work on the same network, by a part of each tensor's values.

        Raises:
            ValueError: their parameters differ.
        """
        if self.size == 1:
            return
        parameters = [parameter.detach().cpu() for parameter in parameters]
        found = self.gather((len(parameters), fingerprint(parameters)))
        if any(other != found[0] for other in found):
            raise ValueError(
                f"{self._operator}: `process_group` joins ranks whose models have different "
                "parameters; load the same weights on each of them, or set the same seed"
            )

    def of_first(self, compute: Callable[[], Result]) -> Result:
        """What ``compute`` returns on the first rank, which alone runs it."""
        if self.size == 1:
            return compute()
        found = [compute() if self.rank == 0 else None]
        self._meet()
        self._exchange(lambda: dist.broadcast_object_list(found, group=self._group, group_src=0))
        return found[0]  # type: ignore[return-value]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over the ranks; the same bits everywhere."""
        self._reduce_(tensors, dist.ReduceOp.SUM)

    def min_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their minima over the ranks, element by element."""
        self._reduce_(tensors, dist.ReduceOp.MIN)

    def _reduce_(self, tensors: Sequence[Tensor], operation: Any) -> None:
        self._meet()
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(self._device())
        self._exchange(lambda: dist.all_reduce(flat, operation, self._group))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

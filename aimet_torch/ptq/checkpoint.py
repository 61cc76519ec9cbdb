"""Finished layers of a long job on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from aimet_torch.ptq.layer_rounding import LayerResult

__all__ = ["Checkpoint", "fingerprint"]


def fingerprint(model: nn.Module, calls: Iterable[Any], settings: Any) -> str:
    """A digest of all that decides a result: weights, data and settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    tensors: list[Tensor] = list(model.state_dict().values())
    tensors += [leaf for leaf in _pytree.tree_leaves(list(calls)) if isinstance(leaf, Tensor)]
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.view(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return digest.hexdigest()


class Checkpoint:
    """A folder with one file for each finished layer.

    Args:
        folder: Made when the first layer is saved.
        identity: From :func:`fingerprint`; what another job left in the folder is removed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity
        mark = folder / "identity"
        if folder.exists() and (not mark.exists() or mark.read_text() != identity):
            shutil.rmtree(folder)

    def has(self, name: str) -> bool:
        """Whether the layer is finished."""
        return self._path(name).exists()

    def load(self, name: str) -> LayerResult | None:
        """The result of a finished layer, None for others."""
        content = self.load_content(name)
        if content is None:
            return None
        content["codes"] = content["codes"].double()
        return LayerResult(**content)

    def save(self, name: str, result: LayerResult) -> None:
        """Keep a result; the file is complete or not there at all."""
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        fields["codes"] = result.codes.to(torch.int32)
        self.save_content(name, fields)

    def load_content(self, name: str) -> dict[str, Any] | None:
        """What was kept under a name, None where nothing was."""
        return torch.load(self._path(name), weights_only=True) if self.has(name) else None

    def save_content(self, name: str, content: dict[str, Any]) -> None:
        """Keep tensors and numbers; the file is complete or not there at all."""
        if not self._folder.exists():
            self._folder.mkdir(parents=True)
            (self._folder / "identity").write_text(self._identity)
        path = self._path(name)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(content, temporary)
        temporary.replace(path)

    def remove(self) -> None:
        """Delete the folder: the job is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.pt"

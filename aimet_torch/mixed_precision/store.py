"""Scores of a search on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from aimet_torch.common.tables import json_ready, write_json
from aimet_torch.ops import fingerprint

__all__ = ["ScoreStore", "identity_of"]

_FORMAT = "aimet_torch.mixed_precision scores, version 1"
_WAY_OUT = "pass clean_start=True to start anew, or another `results_dir`"


def identity_of(tensors: Iterable[Tensor], **facts: Any) -> dict[str, Any]:
    """What decides the scores, apart from the callbacks: weights and settings.

    Args:
        tensors: parameters and buffers of the model.
        **facts: settings, as JSON knows them.
    """
    # A part of each tensor's values is enough to tell networks apart.
    digest = fingerprint([tensor.detach().cpu() for tensor in tensors])
    return {"weights": digest, **json.loads(json.dumps(facts))}


class ScoreStore:
    """Scores by label, and a file that has all of them after each one.

    Args:
        folder: made with the first score.
        identity: from `identity_of`.
        clean_start: forget what the file has.
        function: for messages.

    Attributes:
        scores: by label.

    Raises:
        ValueError: the file is damaged, of another version, or of another job.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], clean_start: bool, function: str
    ) -> None:
        self._path = folder / "evaluations.json"
        self._identity = identity
        self.scores: dict[str, float] = {}
        if clean_start:
            self._path.unlink(missing_ok=True)
        elif self._path.exists():
            self.scores = self._read(function)
        else:
            pickles = sorted(path.name for path in folder.glob("*.pkl"))
            if pickles:
                raise ValueError(
                    f"{function}: {folder} holds {', '.join(pickles)} of AIMET, which is not read: "
                    f"unpickling runs whatever code it names; {_WAY_OUT}"
                )

    def _read(self, function: str) -> dict[str, float]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            version = document["format"]
            identity, scores = document["identity"], document["scores"]
            found = {str(label): float(score) for label, score in scores.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{function}: the cache {self._path} is damaged or of another program "
                f"({type(error).__name__}: {error}); {_WAY_OUT}"
            ) from error
        if version != _FORMAT:
            raise ValueError(
                f"{function}: the cache {self._path} has the format {version!r}, expected "
                f"{_FORMAT!r}; {_WAY_OUT}"
            )
        others = [key for key in self._identity if identity.get(key) != self._identity[key]]
        if others or identity.keys() != self._identity.keys():
            raise ValueError(
                f"{function}: the cache {self._path} is of another job: it differs in "
                f"{', '.join(others) or 'what it holds'}; {_WAY_OUT}"
            )
        return found

    def add(self, label: str, score: float, writes: bool = True) -> None:
        """Keep a score, and write them all; the file is complete or as it was."""
        if math.isnan(score):
            raise ValueError(f"mixed precision: the score of {label!r} is NaN; check the callback")
        self.scores[label] = score
        if not writes:
            return
        document = {"format": _FORMAT, "identity": self._identity, "scores": self.scores}
        write_json(self._path, json_ready(document))

"""What AutoQuant keeps: finished attempts on disk, and the page that shows them."""

from __future__ import annotations

import hashlib
import html
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Attempt", "AttemptStore", "write_atomically", "write_page"]


@dataclass
class Attempt:
    """One way to quantize the model, and what came of it.

    Attributes:
        name: In words.
        accuracy: What the evaluation gave; None where it came to nothing.
        seconds: Time that it took when it was made.
        is_good_enough: The accuracy is within the allowed drop.
        is_from_cache: An earlier run made it.
        problem: Why it came to nothing.
    """

    name: str
    accuracy: float | None
    seconds: float
    is_good_enough: bool = False
    is_from_cache: bool = False
    problem: str | None = None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under another name, then put it in place: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class AttemptStore:
    """A folder with the finished attempts of one job.

    Args:
        folder: Made with the first attempt.
        identity: Digest of everything that decides the results; what another job left is removed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self._identity = identity
        mark = folder / "identity"
        if folder.exists() and (not mark.exists() or mark.read_text() != identity):
            shutil.rmtree(folder)

    def load(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key; None where there is nothing, or nothing readable."""
        try:
            content = torch.load(self._path(key), weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # what a broken disk or another torch left is made again
            return None
        return content if isinstance(content, dict) else None

    def save(self, key: str, content: dict[str, Any]) -> None:
        """Keep numbers, text and tensors under a key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "identity", lambda path: path.write_text(self._identity))
        write_atomically(self._path(key), lambda path: torch.save(content, path))

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #f5f6f8; margin: 0; }
main { max-width: 900px; margin: 32px auto; padding: 0 20px; }
table { width: 100%; border-collapse: collapse; background: #fff; border-radius: 10px;
  box-shadow: 0 1px 3px #0002; }
th, td { text-align: left; padding: 9px 14px; border-bottom: 1px solid #e6e8ec; }
th { font-size: 12px; color: #657080; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
small { color: #657080; display: block; } tr.best td { background: #e9f6ee; }
.track { position: relative; height: 10px; background: #e6e8ec; border-radius: 5px; width: 220px; }
.track i { position: absolute; inset: 0 auto 0 0; background: #3470d1; border-radius: 5px; }
.track b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #c0392b; }
"""


def write_page(
    path: Path,
    fp32: float | None,
    target: float | None,
    attempts: Sequence[Attempt],
    best: Attempt | None,
    note: str,
) -> None:
    """Write a self-contained HTML page, with the same as JSON beside it.

    Args:
        path: Of the page, ending in ``.html``.
        fp32: Accuracy in FP32, where it is known.
        target: Accuracy to reach.
        attempts: In order.
        best: The one that was taken.
        note: How the job ended, in a sentence.
    """
    known = [a.accuracy for a in attempts if a.accuracy is not None]
    top = max([abs(x) for x in (*known, fp32, target) if x is not None], default=1.0) or 1.0

    def share(value: float) -> float:
        return round(100 * min(max(value / top, 0.0), 1.0), 2)

    rows = []
    for attempt in attempts:
        value, bar = "-", ""
        if attempt.accuracy is not None:
            value = f"{attempt.accuracy:.6g}"
            line = "" if target is None else f'<b style="left:{share(target)}%"></b>'
            bar = f'<i style="width:{share(attempt.accuracy)}%"></i>{line}'
            bar = f'<div class="track">{bar}</div>'
        details = [attempt.problem or "", "from an earlier run" if attempt.is_from_cache else ""]
        small = "".join(f"<small>{html.escape(text)}</small>" for text in details if text)
        rows.append(
            f"<tr{' class=best' if attempt is best else ''}><td>{html.escape(attempt.name)}{small}"
            f'</td><td class="n">{value}</td><td>{bar}</td>'
            f'<td class="n">{attempt.seconds:.1f} s</td></tr>'
        )
    summary = [f"FP32: {fp32:.6g}" if fp32 is not None else "FP32: not known"]
    if target is not None:
        summary.append(f"to reach: {target:.6g} (red line)")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>AutoQuant</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>AutoQuant</h1><p>{html.escape(note)}</p><p>{' · '.join(summary)}</p>"
        '<table><tr><th>attempt</th><th class="n">accuracy</th><th></th><th class="n">time</th>'
        f"</tr>{''.join(rows)}</table></main></body></html>\n"
    )
    write_atomically(path, lambda p: p.write_text(page, encoding="utf-8"))
    document = {
        "note": note,
        "fp32_accuracy": fp32,
        "target_accuracy": target,
        "best": None if best is None else best.name,
        "attempts": [asdict(attempt) for attempt in attempts],
    }
    text = json.dumps(document, indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda p: p.write_text(text, encoding="utf-8"))

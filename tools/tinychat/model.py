"""The network of both families in PyTorch: RMSNorm, rotary attention, SwiGLU.

The llama shape rotates all dimensions of a head, the ChatGLM3 shape the first half only and has
biases on query, key and value.  Pairs are neighbours (0,1), (2,3), ... in both, as llama.cpp
(for the llama architecture) and chatglm_cpp compute them, so no weight is permuted on export.

The rotary base of the llama shape is the square of the other's.  With that, the first half of the
pairs turns at the same speed in both and the second half hardly turns within the context, so one
shape can start from the weights of the other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

GLM_ROPE_BASE = 10000.0
LOOK = 2.5  # how sharply prepared heads tell one pair of tokens from another


@dataclass
class Config:
    """Sizes of a model; ``family`` is "llama" or "chatglm3"."""

    vocab: int
    family: str = "llama"
    width: int = 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 352
    eps: float = 1e-5

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return self.width // self.heads

    @property
    def rope_dims(self) -> int:
        """Dimensions of a head that are rotated."""
        return self.head_size if self.family == "llama" else self.head_size // 2

    @property
    def rope_base(self) -> float:
        """Base of the rotary frequencies."""
        return GLM_ROPE_BASE**2 if self.family == "llama" else GLM_ROPE_BASE

    def as_dict(self) -> dict[str, Any]:
        """The fields, for a checkpoint."""
        return asdict(self)


def rotary_table(config: Config, length: int) -> Tensor:
    """Cosines and sines side by side, shape (length, rope_dims / 2, 2)."""
    dims = config.rope_dims
    speed = config.rope_base ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * speed[None, :]
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the first dimensions of x (batch, time, heads, size)."""
    dims = turns.shape[-2] * 2
    pairs = torch.view_as_complex(x[..., :dims].reshape(*x.shape[:-1], dims // 2, 2))
    turned = torch.view_as_real(pairs * torch.view_as_complex(turns)[:, None, :]).flatten(-2)
    return turned if dims == x.shape[-1] else torch.cat((turned, x[..., dims:]), dim=-1)


class RMSNorm(nn.Module):
    """Root mean square normalisation with a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Block(nn.Module):
    """One layer: attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kv_width = config.kv_heads * config.head_size
        self.attention_norm = RMSNorm(config.width, config.eps)
        self.qkv = nn.Linear(
            config.width, config.width + 2 * kv_width, bias=config.family == "chatglm3"
        )
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.feed_norm = RMSNorm(config.width, config.eps)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, turns: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        c = self.config
        batch, time, _ = x.shape
        kv_width = c.kv_heads * c.head_size
        q, k, v = self.qkv(self.attention_norm(x)).split((c.width, kv_width, kv_width), dim=-1)
        q = rotate(q.view(batch, time, c.heads, c.head_size), turns).transpose(1, 2)
        k = rotate(k.view(batch, time, c.kv_heads, c.head_size), turns).transpose(1, 2)
        v = v.view(batch, time, c.kv_heads, c.head_size).transpose(1, 2)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
            cache[:] = [k, v]
        group = c.heads // c.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=time > 1)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, c.width))
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


@torch.no_grad()
def prepare_copying(model: Model) -> None:
    """Begin with attention that copies, instead of waiting for training to find it.

    A third of the width holds what a token is, the next what came before it, the last what came
    before that, and the last dimension is the same for all tokens.  In the first layer, the two
    heads of a key group look one and two tokens back and fetch what those tokens are.  In the
    second and fourth, the heads look for places that follow the same two tokens as the current
    place does, and add the token found there to the output: two, because a blank is a token and
    one blank is like another.  Rotary pairs that turn fast tell the distance, those that hardly
    turn the content.
    """
    c = model.config
    known = (c.width - 1) // 3  # dimensions that say what a token is
    size, group = c.head_size, c.heads // c.kv_heads
    share = [slice(i * size, min((i + 1) * size, known)) for i in range(c.kv_heads)]
    key_rows, value_rows = c.width, c.width + c.kv_heads * size
    embedding = torch.randn(c.vocab, known) * 2**0.5
    model.embedding.weight.normal_(std=0.05)
    model.embedding.weight[:, :known] = embedding
    model.embedding.weight[:, -1] = 4.0
    frame = torch.linalg.qr(torch.randn(c.width, known))[0]
    model.output.weight.copy_(0.1 * embedding @ frame.T)

    first = model.blocks[0]
    speed = GLM_ROPE_BASE ** (-torch.arange(6) / 8)
    strength = torch.tensor([2.8, 2.0, 2.0, 2.0, 2.0, 2.0])
    for g, part in enumerate(share):
        number = part.stop - part.start
        key = first.qkv.weight[key_rows + g * size : key_rows + (g + 1) * size]
        value = first.qkv.weight[value_rows + g * size : value_rows + (g + 1) * size]
        key.zero_()
        value.zero_()
        key[0:12:2, -1] = strength * speed.cos()
        key[1:12:2, -1] = strength * speed.sin()
        value[:number, part] = torch.eye(number)
        for back in range(min(group, 2)):
            head = g * group + back
            query = first.qkv.weight[head * size : (head + 1) * size]
            query.zero_()
            query[0:12:2, -1] = strength * (back * speed).cos()
            query[1:12:2, -1] = -strength * (back * speed).sin()
            begin = (back + 1) * known + part.start
            first.out.weight[begin : begin + number, head * size : head * size + number] = (
                torch.eye(number)
            )

    for block in (model.blocks[1], model.blocks[3]):
        for g, part in enumerate(share):
            number, content = part.stop - part.start, size - 12
            look = torch.linalg.qr(torch.randn(2 * known, content))[0].T * LOOK
            key = block.qkv.weight[key_rows + g * size : key_rows + (g + 1) * size]
            value = block.qkv.weight[value_rows + g * size : value_rows + (g + 1) * size]
            key.zero_()
            value.zero_()
            key[12:, known : 3 * known] = look
            value[:number, part] = torch.eye(number)
            for head in range(g * group, (g + 1) * group):
                query = block.qkv.weight[head * size : (head + 1) * size]
                query.zero_()
                query[12:, : 2 * known] = look
                block.out.weight[:, head * size : head * size + number] = (
                    1.5 / group * frame[:, part]
                )


class Model(nn.Module):
    """The language model."""

    def __init__(self, config: Config, context: int = 2048) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.output = nn.Linear(config.width, config.vocab, bias=False)
        self.register_buffer("turns", rotary_table(config, context), persistent=False)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "bias")):
                nn.init.zeros_(parameter)
        prepare_copying(self)

    def hidden(
        self, ids: Tensor, caches: list[list[Tensor]] | None = None, past: int = 0
    ) -> Tensor:
        """States after the last norm, shape (batch, time, width)."""
        x = self.embedding(ids)
        turns = self.turns[past : past + ids.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, turns, None if caches is None else caches[i])
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, shape (batch, time, vocab)."""
        return self.output(self.hidden(ids))

    @torch.no_grad()
    def greedy(self, prompt: list[int], stops: set[int], limit: int = 200) -> list[int]:
        """The most likely continuation, without the stop mark; limit is in tokens."""
        caches: list[list[Tensor]] = [[] for _ in self.blocks]
        out: list[int] = []
        step = prompt
        past = 0
        while len(out) < limit:
            state = self.hidden(torch.tensor([step]), caches, past)[0, -1]
            past += len(step)
            token = int(self.output(state).argmax())
            if token in stops:
                return out
            out.append(token)
            step = [token]
        return [*out, -1]

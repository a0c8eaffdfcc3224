"""A Qwen3 decoder of any shape with random weights, in plain torch, with replaceable linear layers.

For timing: the same code runs around BF16 and int8 layers, with static shapes, so that torch.compile and CUDA graphs
work equally for both. Norms, RoPE and attention are as in transformers' Qwen3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Qwen3Shape:
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int = 151936
    head_dim: int = 128

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's linear layers."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj, v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj, up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }


QWEN3 = {
    "0.6B": Qwen3Shape(1024, 3072, 16, 8, 28),
    "1.7B": Qwen3Shape(2048, 6144, 16, 8, 28),
    "4B": Qwen3Shape(2560, 9728, 32, 8, 36),
    "8B": Qwen3Shape(4096, 12288, 32, 8, 36),
    "14B": Qwen3Shape(5120, 17408, 40, 8, 40),
    "32B": Qwen3Shape(5120, 25600, 64, 8, 64),
}


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class DecoderLayer(nn.Module):
    def __init__(self, shape: Qwen3Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.before_attention, self.before_mlp = Norm(shape.hidden), Norm(shape.hidden)
        self.q_norm, self.k_norm = Norm(shape.head_dim), Norm(shape.head_dim)
        for name, inputs, outputs in (
            ("q_proj", shape.hidden, queries),
            ("k_proj", shape.hidden, keys),
            ("v_proj", shape.hidden, keys),
            ("o_proj", queries, shape.hidden),
            ("gate_proj", shape.hidden, shape.inner),
            ("up_proj", shape.hidden, shape.inner),
            ("down_proj", shape.inner, shape.hidden),
        ):
            self.add_module(name, nn.Linear(inputs, outputs, bias=False))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, place: Tensor) -> Tensor:
        """x [1, tokens, hidden]. Writes keys and values at positions `place` [tokens] of [1, kv_heads, length, width].

        In a decode step the token reads all of them; in a prefill, whose length is that of the cache, each token reads
        them up to its own position.
        """
        tokens = x.shape[1]
        normed = self.before_attention(x)
        q = self.q_norm(self.q_proj(normed).view(1, tokens, -1, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(normed).view(1, tokens, -1, self.head_dim)).transpose(1, 2)
        v = self.v_proj(normed).view(1, tokens, -1, self.head_dim).transpose(1, 2)
        keys.index_copy_(2, place, rotated(k, cos, sin).to(keys.dtype))
        values.index_copy_(2, place, v.to(values.dtype))
        mixed = functional.scaled_dot_product_attention(
            rotated(q, cos, sin).to(keys.dtype), keys, values, is_causal=tokens > 1, enable_gqa=True
        )
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(1, tokens, -1))
        normed = self.before_mlp(x)
        return x + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


class RandomDecoder(nn.Module):
    """Embeddings, layers, and logits of the last token, [1, vocabulary], from tokens [1, n]."""

    def __init__(self, shape: Qwen3Shape, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.shape = shape
        with torch.device(device):
            self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.hidden, dtype=dtype))
            self.layers = nn.ModuleList(DecoderLayer(shape).to(dtype) for _ in range(shape.layers))
            self.norm = Norm(shape.hidden).to(dtype)

    def replace_linear(self, make: Callable[[nn.Linear], nn.Module]) -> RandomDecoder:
        """Replace every linear layer in the layers by the result of `make`, in place."""
        for layer in self.layers:
            for name, linear in list(layer.named_children()):
                if not isinstance(linear, Norm):
                    setattr(layer, name, make(linear))
        return self

    def step(self, tokens: int, length: int) -> Callable[[], Tensor]:
        """A call that feeds the last `tokens` of `length` tokens: a prefill if both are equal, else a decode step."""
        device, dtype = self.embedding.device, self.embedding.dtype
        ids = torch.randint(0, self.shape.vocabulary, (1, tokens), device=device)
        place = torch.arange(length - tokens, length, device=device)
        angles = place[:, None] * 1e6 ** -(torch.arange(0, self.shape.head_dim, 2, device=device) / self.shape.head_dim)
        cos, sin = (f(torch.cat((angles, angles), -1)).to(dtype) for f in (torch.cos, torch.sin))
        cache = torch.randn(
            2, self.shape.layers, 1, self.shape.kv_heads, length, self.shape.head_dim, device=device, dtype=dtype
        )

        def run() -> Tensor:
            x = self.embedding[ids]
            for index, layer in enumerate(self.layers):
                x = layer(x, cos, sin, cache[0, index], cache[1, index], place)
            return functional.linear(self.norm(x[:, -1]).to(dtype), self.embedding)

        return run

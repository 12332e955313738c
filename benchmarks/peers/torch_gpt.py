"""The project's GPT and Llama in plain PyTorch: the oracle in tests, the peer in
benchmarks.

Parameter names are ours with dots kept ("block0.qkv.weight"), so weights go across by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Pre-norm transformer block; ``config`` is the workbench model's config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        c, heads = config["width"], config["num_heads"]
        kv_heads = config.get("num_kv_heads", heads)
        self.llama = config["kind"] == "llama"
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, c // heads
        bias, hidden = not self.llama, config["hidden"]
        norm = nn.RMSNorm if self.llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(c, eps=1e-5), norm(c, eps=1e-5)
        self.qkv = nn.Linear(c, (heads + 2 * kv_heads) * self.head_dim, bias=bias)
        self.proj = nn.Linear(c, c, bias=bias)
        self.up = nn.Linear(c, hidden * (2 if self.llama else 1), bias=bias)
        self.down = nn.Linear(hidden, c, bias=bias)
        if self.llama:
            half = (
                torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
            )
            position = torch.arange(config["context"], dtype=torch.float64)
            angles = position[:, None] * config["rope_theta"] ** -half[None, :]
            self.register_buffer("cos", angles.cos().float(), persistent=False)
            self.register_buffer("sin", angles.sin().float(), persistent=False)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, heads, context, head_dim)."""
        left, right = x.chunk(2, dim=-1)
        rotated = (
            left * self.cos - right * self.sin,
            right * self.cos + left * self.sin,
        )
        return torch.cat(rotated, dim=-1)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        batch, context, _ = x.shape
        qkv = self.qkv(x).view(batch, context, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.llama:
            q, k = self.rotate(q), self.rotate(k)
        grouped = self.heads != self.kv_heads
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=grouped
        )
        return self.proj(out.transpose(1, 2).reshape(batch, context, -1))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        if not self.llama:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        norm = nn.RMSNorm if config["kind"] == "llama" else nn.LayerNorm
        self.norm = norm(config["width"], eps=1e-5)
        self.weight = nn.Parameter(torch.empty(config["vocab_size"], config["width"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(x), self.weight)


class Embedding(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(config["vocab_size"], config["width"]))
        if config["kind"] == "gpt":
            self.position = nn.Parameter(
                torch.empty(config["context"], config["width"])
            )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens, self.token)
        return x + self.position if hasattr(self, "position") else x


class LanguageModel(nn.Module):
    """Embedding, blocks, head; ``loss`` is the mean next-token cross-entropy."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        for i in range(config["num_layers"]):
            self.add_module(f"block{i}", Block(config))
        self.num_layers = config["num_layers"]
        self.head = Head(config)
        if config.get("tied"):
            self.head.weight = self.embedding.token

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for i in range(self.num_layers):
            x = getattr(self, f"block{i}")(x)
        return self.head(x)

    def loss(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self(tokens)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Takes weights by name; every parameter must be given."""
        own = dict(self.named_parameters())
        if set(own) != set(weights):
            raise ValueError(f"parameters differ: {set(own) ^ set(weights)}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))

"""Mixture-of-experts block: parameters and costs, for planning. The engine does not run
it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from .layers import Layer, LayerCost, Parameter


@dataclass(frozen=True)
class MoEBlock(Layer):
    """Attention as in Llama; the MLP is a router and ``num_experts`` SwiGLU experts, of
    which each token uses ``experts_per_token``, plus an optional shared expert."""

    context: int
    width: int
    num_heads: int
    num_kv_heads: int
    num_experts: int
    experts_per_token: int
    expert_hidden: int
    shared_hidden: int = 0

    executable: ClassVar[bool] = False

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        c, head = self.width, self.width // self.num_heads
        qkv = (self.num_heads + 2 * self.num_kv_heads) * head
        shapes: dict[str, tuple[int, ...]] = {
            "norm1.weight": (c,),
            "qkv.weight": (qkv, c),
            "proj.weight": (c, c),
            "norm2.weight": (c,),
            "router.weight": (self.num_experts, c),
            "experts.up.weight": (self.num_experts, 2 * self.expert_hidden, c),
            "experts.down.weight": (self.num_experts, c, self.expert_hidden),
        }
        if self.shared_hidden:
            shapes["shared.up.weight"] = (2 * self.shared_hidden, c)
            shapes["shared.down.weight"] = (c, self.shared_hidden)
        return tuple(
            Parameter(
                name, shape, 0.0 if "norm" in name else 0.02, float("norm" in name)
            )
            for name, shape in shapes.items()
        )

    @property
    def cost(self) -> LayerCost:
        """Of the experts a token uses, and the causal half of attention."""
        c, head = self.width, self.width // self.num_heads
        qkv = (self.num_heads + 2 * self.num_kv_heads) * head
        mlp = 3 * c * (self.experts_per_token * self.expert_hidden + self.shared_hidden)
        products = 2.0 * self.context * (c * (qkv + c + self.num_experts) + mlp)
        attention = 2.0 * self.context**2 * c
        return LayerCost(products + attention, products + 2 * attention, products)

    @property
    def input_elements(self) -> int:
        return self.context * self.width

    @property
    def output_elements(self) -> int:
        return self.context * self.width

"""Models by name. The large ones are for planning and drawing: building them is
free."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The main job's model: about 3.7 million parameters on bytes.
    "byte-gpt-3.7m": dict(
        kind="gpt", num_layers=8, width=192, num_heads=6, vocab_size=256, context=128
    ),
    "byte-gpt-tiny": dict(
        kind="gpt", num_layers=4, width=32, num_heads=4, vocab_size=256, context=32
    ),
    # Radford et al. 2019; embedding and head are tied.
    "gpt2-124m": dict(
        kind="gpt",
        num_layers=12,
        width=768,
        num_heads=12,
        vocab_size=50257,
        context=1024,
        tied=True,
    ),
    # Grattafiori et al. 2024, "The Llama 3 Herd of Models".
    "llama-3-8b": dict(
        kind="llama",
        num_layers=32,
        width=4096,
        num_heads=32,
        num_kv_heads=8,
        vocab_size=128256,
        context=8192,
        hidden=14336,
        rope_theta=500000.0,
    ),
    "llama-3-405b": dict(
        kind="llama",
        num_layers=126,
        width=16384,
        num_heads=128,
        num_kv_heads=8,
        vocab_size=128256,
        context=8192,
        hidden=53248,
        rope_theta=500000.0,
    ),
}

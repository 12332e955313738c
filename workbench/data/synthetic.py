"""A text that is made, not found: a seeded Markov chain, the same everywhere.

Each token is followed by one of four others, with odds 4 : 2 : 1 : 1, so a model that
knows the chain needs at most 1.75 bits per token, far less than the unigram entropy.
"""

from __future__ import annotations

import numpy as np

from .sampling import sample_hash

#: Of each 8 equally likely draws, which successor they mean.
_CHOICE = np.array([0, 0, 0, 0, 1, 1, 2, 3])
_CHAIN = 512  # tokens per chain; the chains are drawn side by side
_TABLE, _FIRST = 1, 2  # "steps" of the hash that do not meet those of the walk
_WALK = 3


def markov(vocab_size: int, size: int, seed: int) -> np.ndarray:
    """(size,) int64 tokens in 0..vocab_size-1, drawn with integer arithmetic alone."""
    tokens = np.uint64(vocab_size)
    table = sample_hash(seed, _TABLE, np.arange(4 * vocab_size)) % tokens
    successors = table.astype(np.int64).reshape(vocab_size, 4)
    num_chains = -(-size // _CHAIN)
    chains = np.arange(num_chains)
    now = (sample_hash(seed, _FIRST, chains) % tokens).astype(np.int64)
    text = np.empty((num_chains, _CHAIN), np.int64)
    for i in range(_CHAIN):
        text[:, i] = now
        draw = (sample_hash(seed, _WALK + i, chains) >> np.uint64(61)).astype(np.int64)
        now = successors[now, _CHOICE[draw]]
    return text.reshape(-1)[:size].copy()

"""Rendezvous hashing: gives each client its own order of nodes, which does not change."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

__all__ = ["ranking"]


def ranking(seed: str) -> Callable[[str], bytes]:
    """A function from a node's key to its rank; the smallest ranks come first.

    A rank depends only on the seed and that key, so a node that comes or goes moves no
    other one (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous",
    1996). The key is at the end of the rank, so no two nodes have the same rank.

    Args:
        seed: A text that distinguishes this client from others.
    """
    # A key of blake2b has at most 64 bytes; a seed may have any length.
    seeded = blake2b(digest_size=8, key=blake2b(seed.encode()).digest())

    def rank(key: str) -> bytes:
        hashed = seeded.copy()
        name = key.encode()
        hashed.update(name)
        return hashed.digest() + name

    return rank

"""Rendezvous hashing: an order of nodes that is each client's own and does not change."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

__all__ = ["ranking"]


def ranking(seed: str) -> Callable[[str], bytes]:
    """A function from a node's key to its rank; the smallest ranks come first.

    A rank depends on the seed and that key alone, so a node that comes or goes moves
    no other one (Thaler and Ravishankar, "A Name-Based Mapping Scheme for
    Rendezvous", 1996). The key stands at the rank's end, so no two nodes have the
    same rank.

    Args:
        seed: What this client is told from others by.
    """
    # A key of blake2b has 64 bytes at most, a seed any length.
    seeded = blake2b(digest_size=8, key=blake2b(seed.encode()).digest())

    def rank(key: str) -> bytes:
        hashed = seeded.copy()
        name = key.encode()
        hashed.update(name)
        return hashed.digest() + name

    return rank

"""Addresses of loopback that no other run of these tests has: every port on them is free, and known ahead."""

from __future__ import annotations

import atexit
import socket
from functools import cache

__all__ = ["network"]

# Whoever listens here, on the network's first address, has the network.
PORT = 9999


@cache
def network() -> str:
    """The first half of this process's addresses, such as `127.64`, until it ends. Linux only."""
    for number in range(64, 128):
        lock = socket.socket()
        try:
            lock.bind((f"127.{number}.0.1", PORT))
            lock.listen()
        except OSError:
            lock.close()
            continue
        atexit.register(lock.close)
        return f"127.{number}"
    raise AssertionError("no network of loopback from 127.64 to 127.127 is free")

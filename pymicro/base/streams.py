"""The standard streams of a process that was started without them."""

from __future__ import annotations

import os

__all__ = ["fill_standard_streams"]


def fill_standard_streams() -> None:
    """See to it that stdin, stdout and stderr are files, if only /dev/null.

    Where one is closed (`<&-`, some daemons), the next file or socket that is opened gets its number:
    libuv aborts the process when that is closed, and what a library prints would go to a peer.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free

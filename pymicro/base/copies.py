"""What cannot be copied, or sent to another process."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["NotCopied"]


class NotCopied:
    """Has connections, tasks or a call that belong to one object in one process.

    A copy would share them, and end them when it is collected; Python's own words for what cannot
    be pickled name some object deep inside.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            f"a {type(self).__qualname__} of pymicro's cannot be copied or pickled: it belongs to the "
            "process that made it. Make a client, its channels and stubs where they are used"
        )

"""What came of a look at a token or an API key."""

from __future__ import annotations

from dataclasses import dataclass

from pymicro.identity.caller import KnownCaller

__all__ = ["Proven", "Rejected", "Verdict"]


@dataclass(frozen=True, slots=True)
class Proven:
    """It is good.

    Attributes:
        caller: Whom it is for; nothing of a certificate is in there.
        until: The moment from which it is good no more, in seconds since 1970.
    """

    caller: KnownCaller
    until: float = float("inf")


@dataclass(frozen=True, slots=True)
class Rejected:
    """It is not good, or nobody can say.

    Attributes:
        why: For the caller: the end of a sentence about it. It has nothing of its contents.
        busy: Whether it was not looked at, for want of time or of keys: another node may look.
    """

    why: str
    busy: bool = False


Verdict = Proven | Rejected

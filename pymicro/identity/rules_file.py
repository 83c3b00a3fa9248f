"""The file that says who may call what, read again when it changes."""

from __future__ import annotations

from collections.abc import Callable

from pymicro.identity.followed_file import FollowedFile
from pymicro.identity.rules import CallRules, read_rules

__all__ = ["RulesFile"]


class RulesFile(FollowedFile[CallRules]):
    """Holds the newest good rules. A file that cannot be used is complained about, and those before stay.

    Args:
        path: Where it is.
        take: Called with the rules, at once and whenever there are others.
    """

    def __init__(self, path: str, take: Callable[[CallRules], None]) -> None:
        super().__init__(
            path, what="rules", content="rules", setting="authorization", parse=read_rules, take=take
        )

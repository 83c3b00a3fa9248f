"""Which calls get a line in the access log: the setting `access_log`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymicro.base.durations import format_duration, parse_duration
from pymicro.base.printable import excerpt
from pymicro.settings.kinds import Kind

__all__ = ["ACCESS_LOG", "AccessRule"]

_FORMS = (
    "off, all, sample:0.01 (a share of all calls), slow:500ms (those that take as long), or both of these"
)


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Which calls get a line.

    Attributes:
        share: The share of all calls that do, chosen by chance; 0 for none.
        slow: Seconds from which on a call does in any case; None for no such length.
    """

    share: float = 0.0
    slow: float | None = None

    @classmethod
    def of(cls, text: str) -> AccessRule:
        """The rule that a text means: `off`, `all`, `sample:0.01`, `slow:500ms`, `sample:0.01,slow:500ms`.

        Raises:
            ValueError: It means none.
        """
        words = [word.strip().lower() for word in text.split(",")]
        if words in (["off"], ["all"]):
            return cls(share=float(words == ["all"]))
        given: dict[str, float] = {}
        for word in words:
            name, colon, value = word.partition(":")
            if name not in ("sample", "slow") or not colon or name in given:
                raise ValueError(f"{excerpt(text)} is none of {_FORMS}")
            given[name] = _share(value) if name == "sample" else parse_duration(value)
        return cls(given.get("sample", 0.0), given.get("slow"))

    def __str__(self) -> str:
        if self.slow is None and self.share in (0.0, 1.0):
            return "all" if self.share else "off"
        sample = f"sample:{self.share:.9f}".rstrip("0").rstrip(".") if self.share else ""
        slow = f"slow:{format_duration(self.slow)}" if self.slow is not None else ""
        return ",".join(filter(None, (sample, slow)))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 1e-9 <= share <= 1.0:
        raise ValueError(f"{excerpt(text)} is no share of the calls: sample:0.01 is one in a hundred")
    return share


def _accept(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{excerpt(value)} is none of {_FORMS}")
    return str(AccessRule.of(value))


ACCESS_LOG = Kind("off|all|sample:SHARE|slow:DURATION", _accept, _accept)

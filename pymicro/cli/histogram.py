"""Many latencies in little memory, as in HdrHistogram: a counter's width grows with the value."""

from __future__ import annotations

import math

__all__ = ["Histogram"]

# Counters for each doubling of the value: half of a counter's width is at most 1/256 of the value.
_BITS = 7
# 2^43 ns are 2.4 hours; a longer latency counts as that.
_LONGEST_BITS = 43


class Histogram:
    """Latencies in seconds, each kept to within 0.4 % in some five thousand counters.

    Attributes:
        count: The number of latencies.
        total: Their sum, exact.
    """

    def __init__(self) -> None:
        self._counters = [0] * ((_LONGEST_BITS - _BITS + 1) << _BITS)
        self._least = math.inf
        self._most = 0.0
        self.count = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        value = int(seconds * 1e9)
        # Below 256 ns there is one counter for each nanosecond; above, the eight leading bits choose it.
        shift = max(value.bit_length() - _BITS - 1, 0)
        index = (shift << _BITS) + (value >> shift)
        try:
            self._counters[index] += 1
        except IndexError:
            self._counters[-1] += 1
        self.count += 1
        self.total += seconds
        if seconds < self._least:
            self._least = seconds
        if seconds > self._most:
            self._most = seconds

    @property
    def least(self) -> float:
        """The shortest, exact; 0 if there is none."""
        return self._least if self.count else 0.0

    @property
    def most(self) -> float:
        """The longest, exact; 0 if there is none."""
        return self._most

    @property
    def mean(self) -> float:
        """Their mean, exact; 0 if there is none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The latency that `percent` of them do not exceed; 0 if there is none."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for index, counter in enumerate(self._counters):
            seen += counter
            if seen >= rank:
                return min(max(_middle(index), self._least), self._most)
        return self._most


def _middle(index: int) -> float:
    """Seconds in the middle of a counter."""
    shift = max((index >> _BITS) - 1, 0)
    low = (index - (shift << _BITS)) << shift
    return (low + (1 << shift) / 2) / 1e9

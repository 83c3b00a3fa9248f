"""Metrics as text that Prometheus reads, written in pieces that hold up no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["Exposition"]

_END = b"# EOF\n"


class Exposition:
    """Writes metrics of ours, and those that the program has in prometheus-client's own registry.

    Args:
        ours: Gives our metrics anew for each scrape; a large family comes in several pieces.

    Raises:
        ConfigError: The extra `metrics` is missing.
    """

    def __init__(self, ours: Callable[[], Iterable[Metric]]) -> None:
        try:
            import prometheus_client
            from prometheus_client import exposition
        except ImportError as exc:
            raise ConfigError(
                f"metrics need the extra `metrics`: pip install 'pymicro-grpc[metrics]' ({exc})"
            ) from exc
        self._choose: Any = exposition.choose_encoder
        self._theirs: Any = prometheus_client.REGISTRY
        self._ours = ours

    def write(self, accept: str) -> tuple[str, AsyncIterator[bytes]]:
        """The content type for a scraper, and the text.

        Between two pieces of the text the event loop gets its turn. A piece is of some 150 lines;
        only what the program's own collectors do is in their hands.

        Args:
            accept: The scraper's header of that name; empty for none.
        """
        encode, content_type = self._choose(accept)
        return content_type, self._pieces(encode)

    async def _pieces(self, encode: Callable[[Any], bytes]) -> AsyncIterator[bytes]:
        before, openmetrics = "", False
        for metric in self._metrics():
            text = encode(_One(metric))
            if text.endswith(_END):  # once at the end, in OpenMetrics
                text, openmetrics = text.removesuffix(_END), True
            yield _without_head(text) if metric.name == before else text
            before = metric.name
            await asyncio.sleep(0)
        if openmetrics:
            yield _END

    def _metrics(self) -> Iterator[Metric]:
        yield from self._ours()
        yield from self._theirs.collect()


class _One:
    """A collector of one metric, which is all that an encoder asks for."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _without_head(text: bytes) -> bytes:
    """A family's text without its name, help and type, which stand in front once."""
    lines = text.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"# "))

"""Every length of time and every size that a reflector uses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReflectorTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReflectorTiming:
    """When a reflector does what; all in seconds but `page_size`.

    Attributes:
        page_size: Objects in a page of a list (client-go's; the server's cache has none larger).
        page_timeout: For one page with its whole answer.
        stream_list_wait: How long a streaming list may be silent before its end; then the
            reflector asks for pages (an etcd without progress requests never lets it end).
        stream_list_limit: How long a streaming list may take in all.
        stream_list_retry: For how long a refused streaming list is not tried again.
        connect_timeout: Until the head of a watch's answer.
        watch_timeout: The reflector asks the server to end a watch after a time between these
            (client-go's), so that clients spread over a server that came back.
        watch_overrun: How much longer than that a watch may last before the reflector leaves it.
        idle_limit: Silence after which a watch is dead: bookmarks come each minute.
        backoff_initial: Ceiling of the first pause after a failure (client-go's).
        backoff_maximum: The ceiling grows to this.
        retry_after_limit: The longest Retry-After that the reflector obeys.
        healthy_after: After a watch this long, the pauses begin anew (client-go's).
        resync: About how often everything is listed again, because even API servers lose
            events (kubernetes#123072).
        resync_jitter: The share of `resync` by which it varies either way.
        short_watch: A watch that ends sooner and without an event has failed; also the
            least time between two watches.
        gather: Least time between two publications; changes in between are gathered.
        yield_after: How long the reflector reads events before it lets the event loop turn.
    """

    page_size: int = 500
    page_timeout: float = 20.0
    stream_list_wait: float = 5.0
    stream_list_limit: float = 60.0
    stream_list_retry: float = 1800.0
    connect_timeout: float = 10.0
    watch_timeout: tuple[float, float] = (300.0, 600.0)
    watch_overrun: float = 30.0
    idle_limit: float = 70.0
    backoff_initial: float = 0.8
    backoff_maximum: float = 30.0
    retry_after_limit: float = 120.0
    healthy_after: float = 120.0
    resync: float = 1800.0
    resync_jitter: float = 0.1
    short_watch: float = 1.0
    gather: float = 0.05
    yield_after: float = 0.005

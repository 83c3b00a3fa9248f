"""Every length of time and size a reflector goes by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReflectorTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReflectorTiming:
    """When a reflector does what; all in seconds but `page_size`.

    Attributes:
        page_size: Objects in a page of a list (client-go's; the server's cache has none larger).
        page_timeout: For one page, answer and all.
        stream_list_wait: How long a streaming list may be silent before its end; then pages
            are asked for (an etcd without progress requests never lets it end).
        stream_list_limit: How long a streaming list may take in all.
        stream_list_retry: How long one that was refused is not tried again.
        connect_timeout: Until the head of a watch's answer.
        watch_timeout: Between these the server is asked to end a watch (client-go's), so
            that clients spread over a server that came back.
        watch_overrun: How much longer than asked for a watch may last before it is left.
        idle_limit: Silence after which a watch is dead: bookmarks come each minute.
        backoff_initial: Ceiling of the first pause after a failure (client-go's).
        backoff_maximum: The ceiling grows to this.
        retry_after_limit: The longest a Retry-After is obeyed.
        healthy_after: A watch that held this long begins the pauses anew (client-go's).
        resync: About how often everything is listed again, because even API servers lose
            events (kubernetes#123072).
        resync_jitter: The share of `resync` by which it varies either way.
        short_watch: A watch that ends sooner and without an event has failed; also the
            least time between two watches.
        gather: Least time between two publications; what changes in between is gathered.
        yield_after: How long events are read in one go before the event loop turns.
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
    yield_after: float = 0.01

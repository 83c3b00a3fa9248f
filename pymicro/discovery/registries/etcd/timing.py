"""Every length of time that registry `etcd` uses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EtcdTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EtcdTiming:
    """All lengths of time, in seconds.

    Attributes:
        call: For one call, if there is only one endpoint (go-micro's).
        attempt: For one call, if there are several endpoints; then the next one is asked. Two
            attempts fit into the 5 s that taking a node back may take.
        connect: Until a connection is there, with TLS.
        ping: Between two HTTP/2 pings, while calls or watches are open. etcd ends a connection
            with more pings than one in 5 s (--grpc-keepalive-min-time).
        ping_timeout: Until a ping has to be answered.
        progress: Between two questions on a watch whether anything was missed.
        progress_timeout: Until such a question has to be answered. Anything at the other end
            of the connection may answer a ping; only the watch itself answers this.
        gather: Least time between two sets; changes in between are gathered.
        short: A watch that ends sooner has failed; after a longer one the next begins at once.
        backoff_initial: Ceiling of the first pause after a failure.
        backoff_maximum: The ceiling grows to this.
        grace: How long a watch that worked tries again before it says that etcd is away: a
            member restarts in a second, and a new leader is elected in one or two.
        patience: How long a watch that begins while etcd is away waits before it says so
            again.
        learn: Between two questions who the members are; the first comes after a thirtieth of it.
        withdraw: For taking back nodes that are still registered when the last user leaves.
    """

    call: float = 5.0
    attempt: float = 2.0
    connect: float = 2.0
    ping: float = 10.0
    ping_timeout: float = 3.0
    progress: float = 10.0
    progress_timeout: float = 5.0
    gather: float = 0.05
    short: float = 1.0
    backoff_initial: float = 0.2
    backoff_maximum: float = 4.0
    grace: float = 2.0
    patience: float = 15.0
    learn: float = 300.0
    withdraw: float = 3.0

"""Every length of time registry `etcd` goes by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EtcdTiming"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EtcdTiming:
    """When what is done; all in seconds.

    Attributes:
        call: One call to the only endpoint there is (go-micro's).
        attempt: One call to one of several endpoints, before the next one is asked: two of
            them fit into the 5 s that taking a node back may take.
        connect: Until a connection is there, with TLS.
        ping: Between two HTTP/2 pings, while calls or watches are open. etcd ends
            connections that are pinged more often than every 5 s (--grpc-keepalive-min-time).
        ping_timeout: Until a ping has to be answered.
        progress: Between two questions on a watch whether anything was missed.
        progress_timeout: Until that has to be answered. Pings are answered by whatever is
            at the other end of the connection, this only by the watch itself.
        gather: Least time between two sets; what changes in between is gathered.
        short: A watch that ends sooner has failed; one that held is made anew at once.
        backoff_initial: Ceiling of the first pause after a failure.
        backoff_maximum: The ceiling grows to this.
        grace: How long a watch that worked tries on before it tells that etcd is away: a
            member restarts in a second, and a new leader is elected in one or two.
        patience: How long a watch that was begun while etcd is away waits before it says
            that again.
        withdraw: For taking back what is still registered when the last user leaves.
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
    withdraw: float = 3.0

"""One HTTP/2 connection to one member of etcd."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from pymicro.base.forks import use_grpc
from pymicro.base.grpc_loops import GrpcUse, use_grpc_here
from pymicro.discovery.registries.etcd.messages import EtcdMethod
from pymicro.discovery.registries.etcd.timing import EtcdTiming
from pymicro.discovery.registries.etcd.tls_files import TlsFiles

__all__ = ["Connection", "connect"]

# grpc's own default. grpc reads a message in one go, so the largest message blocks the event
# loop for some milliseconds. etcd's own limit is 1.5 MiB for a value, and about 2 MiB for a
# fragment of a watch's response.
_LARGEST = 4 << 20


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()  # type: ignore[no-any-return]


class Connection:
    """A channel that several users share, and that the last one closes.

    Attributes:
        endpoint: The member's address.
        worked: Whether anything was ever answered on it.
        left: Whether new users must take another connection.
        users: How many use it now; the client counts.
    """

    def __init__(self, endpoint: str, channel: grpc.aio.Channel, use: GrpcUse) -> None:
        self.endpoint = endpoint
        self.worked = False
        self.left = False
        self.users = 0
        self._channel = channel
        self._use = use

    def unary(self, method: EtcdMethod) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        """The callable for `method`."""
        return self._channel.unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=method.response.FromString
        )

    def stream(self, method: EtcdMethod) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        """The callable for `method`, where both sides stream."""
        return self._channel.stream_stream(
            method.path, request_serializer=_serialize, response_deserializer=method.response.FromString
        )

    async def close(self) -> None:
        """Close it; calls that still run on it are cancelled."""
        self.left = True
        await self._channel.close()
        self._use.end()


def connect(endpoint: str, tls: TlsFiles | None, timing: EtcdTiming) -> Connection:
    """A connection, which is made at its first use.

    Raises:
        ConfigError: A TLS file cannot be used.
        PymicroError: This process was forked after gRPC was used, or another of its loops has gRPC.
    """
    options = [
        # Without this a new channel would get the old one's dead connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # In effect the connect timeout. The watch makes the pauses between attempts: a
        # channel that failed is replaced, so that rotated certificates are read.
        ("grpc.min_reconnect_backoff_ms", round(timing.connect * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 4100),
        # All three are needed: without the last, we did not notice a stopped etcd in 28 s
        # (grpcio 1.85), because grpc-core waits a minute for the answer to a ping.
        ("grpc.keepalive_time_ms", round(timing.ping * 1000)),
        ("grpc.keepalive_timeout_ms", round(timing.ping_timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(timing.ping_timeout * 1000)),
        # A silent watch sends nothing else; the default is two pings.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", _LARGEST),
    ]
    use_grpc()
    credentials = None
    if tls is not None:
        ca, key, cert = tls.read()
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
    use = use_grpc_here("the use of the registry etcd")
    if credentials is None:
        return Connection(endpoint, grpc.aio.insecure_channel(endpoint, options), use)
    return Connection(endpoint, grpc.aio.secure_channel(endpoint, credentials, options), use)

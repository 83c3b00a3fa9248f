"""Probes of the kinds `grpc` and `httpGet`, with the numbers of their specification honoured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2

from tests.cluster.kubelet.api import Object
from tests.cluster.kubelet.volumes import Unsupported


@dataclass(frozen=True, slots=True)
class Probe:
    """One of a container's probes; times in seconds.

    Attributes:
        path: What is asked over HTTP; None for a probe over gRPC.
    """

    port: int
    path: str | None
    service: str
    delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def parse(cls, spec: Object) -> Probe:
        """From `readinessProbe` or its like.

        Raises:
            Unsupported: It is of another kind.
        """
        asked = spec.get("grpc") or spec.get("httpGet")
        if asked is None or not isinstance(asked["port"], int):
            raise Unsupported("a probe that is neither of the kind grpc nor httpGet, with a number as port")
        return cls(
            port=asked["port"],
            path=asked.get("path", "/") if "httpGet" in spec else None,
            service=asked.get("service") or "",
            delay=spec.get("initialDelaySeconds", 0),
            period=spec.get("periodSeconds", 10),
            timeout=spec.get("timeoutSeconds", 1),
            successes=spec.get("successThreshold", 1),
            failures=spec.get("failureThreshold", 3),
        )

    async def ask(self, ip: str) -> bool:
        """Ask the pod at `ip` once, on a connection of its own, as a kubelet does."""
        if self.path is not None:
            return await self._get(ip, self.path)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(f"{ip}:{self.port}", options) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = await check(
                    health_pb2.HealthCheckRequest(service=self.service), timeout=self.timeout
                )
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _get(self, ip: str, path: str) -> bool:
        """Whether a page is answered with 200 to 399."""
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await asyncio.open_connection(ip, self.port)
                try:
                    head = f"GET {path} HTTP/1.1\r\nHost: {ip}:{self.port}\r\nUser-Agent: kube-probe/test\r\n"
                    writer.write(f"{head}Accept: */*\r\nConnection: close\r\n\r\n".encode())
                    first = (await reader.readline()).split(b" ")
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return False
        return len(first) > 1 and b"200" <= first[1] < b"400"

    async def run(self, ip: str, decided: Callable[[bool], None]) -> None:
        """Probe for ever; `decided` hears each time a threshold is reached, the first time included."""
        clock = asyncio.get_running_loop().time
        row, last = 0, None
        due = clock() + self.delay
        while True:
            await asyncio.sleep(due - clock())
            due = max(due + self.period, clock())
            good = await self.ask(ip)
            row, last = (row + 1 if good == last else 1), good
            if row == (self.successes if good else self.failures):
                decided(good)

"""What a real Prometheus has of certificates: when they expire, that they are exchanged, and handshakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry
from pymicro.identity import rereading
from pymicro.identity.keeper import IdentityKeeper
from tests.greeting import greeter
from tests.telemetry.real.loopback import network
from tests.telemetry.real.prometheus import Place, Prometheus, Sample
from tests.telemetry.real.scene import ALERTS
from tests.telemetry.real.test_metrics_in_prometheus import PLACE, WITH_CERTIFICATES
from tests.tls.ends import Authority

pytestmark = pytest.mark.telemetry

ADA = pb.HelloRequest(name="Ada")
ENDS = ("server", "caller")
EXPIRY = "pymicro_tls_certificate_expiry_timestamp_seconds"
SERVED, CALLED = "grpc_server_tls_handshakes_total", "grpc_client_tls_handshakes_total"


def value(number: float) -> Callable[[list[Sample]], bool]:
    """Whether the answer is this one number."""
    return lambda found: [sample.value for sample in found] == [number]


def at_least(number: float) -> Callable[[list[Sample]], bool]:
    return lambda found: len(found) == 1 and found[0].value >= number


def end_of(keeper: IdentityKeeper | None) -> float:
    """When the certificate in use expires."""
    assert keeper is not None
    assert keeper.current.not_after is not None
    return keeper.current.not_after


@pytest.mark.parametrize("transport", ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])])
async def test_certificates_and_handshakes_are_followed(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "PERIOD", 0.02)
    (folder := tmp_path / "certificates").mkdir()
    authority, number = Authority(folder), 1 if transport == "grpc" else 2
    places = [Place(f"{network()}.40.{2 * number + at}:9464", "tls", end) for at, end in enumerate(ENDS)]
    server, caller = authority.folder("greeter"), authority.folder("cart")
    given: dict[str, Any] = {"registry": MemoryRegistry(), "transport": transport}
    service, _ = greeter(admin_address=places[0].address, **given, **server.settings)
    client = Client(
        admin_address=places[1].address, environ={}, client_tls="require", **given, **caller.settings
    )
    with Prometheus(tmp_path, places, ALERTS, host=10 + number) as prometheus:
        until = prometheus.until

        async def counted(metric: str, node: str, result: str, holds: Callable[..., bool]) -> None:
            await until(f'{metric}{{node="{node}",result="{result}"}}', holds)

        async with service, client:
            stub = rpc.GreeterStub(client.channel("greeter"))
            await stub.SayHello(ADA, timeout=20)
            for node, keeper in (("server", service.client.identity), ("caller", client.identity)):
                await until(f'{EXPIRY}{{node="{node}"}}', value(end_of(keeper)))
                await counted("pymicro_tls_certificates_total", node, "taken", value(1))
            await counted(CALLED, "caller", "ok", value(1))
            # Of a server over grpc nobody tells how handshakes end.
            done = "begun" if transport == "grpc" else "ok"
            await counted(SERVED, "server", done, at_least(1))

            # Both are exchanged, and the caller goes over to a connection with the new one.
            server.issue(authority.ca, "greeter", days=2)
            caller.issue(authority.ca, "cart", days=3)
            for node, keeper, days in (
                ("server", service.client.identity, 2),
                ("caller", client.identity, 3),
            ):
                await counted("pymicro_tls_certificates_total", node, "taken", value(2))
                await until(f'{EXPIRY}{{node="{node}"}}', value(end_of(keeper)))
                (left,) = await until(f'({EXPIRY}{{node="{node}"}} - time()) / 86400')
                assert days - 0.1 < left.value < days
            await counted(CALLED, "caller", "ok", at_least(2))
            await counted(SERVED, "server", done, at_least(2))
            await stub.SayHello(ADA, timeout=20)

            # Half a file is counted, and the certificate before stays.
            cert, key, ca = ((caller.path / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt"))
            caller.put(cert[:300], key, ca)
            await counted("pymicro_tls_certificates_total", "caller", "refused", value(1))
            await until(f'{EXPIRY}{{node="caller"}}', value(end_of(client.identity)))

            # One that nobody has renewed in time is what the alert is for.
            rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
            (expiring,) = [rule["expr"] for rule in rules if rule["alert"] == "PymicroCertificateExpires"]
            assert await asyncio.to_thread(prometheus.query, expiring, time.time()) == []
            caller.issue(authority.ca, "cart", days=1 / 48)
            await until(expiring, lambda found: [one["node"] for one in found] == ["caller"])

            # And whoever speaks no TLS.
            async with grpc.aio.insecure_channel(service.address) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await rpc.GreeterStub(channel).SayHello(ADA, timeout=20)
            if transport == "grpc":
                await counted(SERVED, "server", "begun", at_least(3))
            else:
                await counted(SERVED, "server", "failed", at_least(1))
        for metric, labels in WITH_CERTIFICATES.items():
            found = await asyncio.to_thread(prometheus.ask, "series", **{"match[]": metric})
            assert {frozenset(one) - PLACE for one in found} == {frozenset(labels)}, metric

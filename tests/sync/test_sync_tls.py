"""A synchronous client whose connections are encrypted, and whose certificate is exchanged under calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from pymicro import Unavailable
from pymicro.identity import rereading
from pymicro.identity.keeper import IdentityKeeper
from pymicro.sync import Client
from tests.certificates import Folder
from tests.handshakes import as_told
from tests.processes import Process, Processes, clean_environment
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc as rpc
from tests.sync.conftest import TRANSPORTS, eventually

ANT = pb.Animal(name="ant")
THREADS, EXCHANGES = 4, 8


class Zoo:
    """The service in a process of its own, which serves only callers with a certificate.

    Attributes:
        ca: The authority that it believes, and of its own certificate.
        folder: Where its certificate is.
        process: It.
    """

    def __init__(self, folder: Path, transport: str) -> None:
        self.ca = trustme.CA()
        self.folder = Folder(folder / "zoo")
        self.folder.issue(self.ca, "zoo")
        self._registry = folder / "registry"
        self._registry.mkdir(mode=0o700)
        self._programs = Processes(
            clean_environment(
                MICRO_REGISTRY_ADDRESS=str(self._registry),
                MICRO_TRANSPORT=transport,
                MICRO_TLS_DIR=str(self.folder.path),
            )
        )
        self.process: Process = self._programs.python("-m", "tests.sync.served")
        self.process.wait_for(r"zoo latest on 127\.0\.0\.1:\d+ \(TLS\), registered")

    def end(self) -> None:
        self._programs.end()

    @property
    def settings(self) -> dict[str, Any]:
        """Those of a client that finds it, and calls it over nothing but TLS."""
        registry = {"registry": "local", "registry_address": str(self._registry)}
        return {"environ": {}, "client_tls": "require", **registry}


@pytest.fixture(scope="module", params=TRANSPORTS)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    zoo = Zoo(tmp_path_factory.mktemp("zoo"), request.param)
    yield zoo
    zoo.end()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What carries the client's calls; the service has each, too."""
    found: str = request.param
    return found


@pytest.fixture
def certificate(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """The folder of a certificate that the service believes; it is looked at often."""
    monkeypatch.setattr(rereading, "PERIOD", 0.02)
    folder = Folder(tmp_path / "keeper")
    folder.issue(zoo.ca, "keeper")
    return folder


def test_all_four_shapes(zoo: Zoo, transport: str, certificate: Folder) -> None:
    with Client(**zoo.settings, transport=transport, **certificate.settings) as client:
        stub = rpc.KeeperStub(client.channel("zoo"))
        assert stub.Import(ANT, timeout=30).name == "ANT"
        assert [one.legs for one in stub.Watch(pb.Animal(name="count:3"), timeout=30)] == [0, 1, 2]
        assert stub.Count(iter([ANT] * 3), timeout=30).count == 3
        assert [one.name for one in stub.Talk(iter([ANT] * 2), timeout=30)] == ["ANT"] * 2
        assert stub.Import.future(ANT, timeout=30).result().name == "ANT"


def without_certificate(zoo: Zoo, folder: Folder) -> dict[str, str]:
    return {"tls_ca": str(folder.path / "ca.crt")}


def of_another_authority(zoo: Zoo, folder: Folder) -> dict[str, str]:
    folder.issue(trustme.CA(), "keeper")
    return folder.settings


def for_another_name(zoo: Zoo, folder: Folder) -> dict[str, str]:
    return {**folder.settings, "tls_server_name": "aquarium"}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_certificate, "perhaps it asks for a certificate, and this process has none"),
        (of_another_authority, "the node's certificate comes from no authority of tls_ca"),
        (for_another_name, r"the node's certificate is not for the name 'aquarium' \(tls_server_name\)"),
    ],
)
def test_one_sentence_says_why_a_node_cannot_be_called(
    zoo: Zoo,
    transport: str,
    certificate: Folder,
    spoil: Callable[[Zoo, Folder], dict[str, str]],
    sentence: str,
) -> None:
    settings = spoil(zoo, certificate)
    with Client(**zoo.settings, transport=transport, client_first_wait=0, **settings) as client:
        with pytest.raises(Unavailable, match=as_told(sentence, transport)) as caught:
            rpc.KeeperStub(client.channel("zoo")).Import(ANT, timeout=30)
        assert isinstance(caught.value, grpc.RpcError)


class Callers:
    """Threads that call until they are told to end, and one that reads a stream.

    Attributes:
        done: How many calls have ended well.
        failures: What the others ended with.
    """

    def __init__(self, stub: Any) -> None:
        self.done = 0
        self.failures: list[BaseException] = []
        self._stub = stub
        self._ending = threading.Event()
        self._counting = threading.Lock()
        calls = [self._unary] * THREADS + [self._stream]
        self._threads = [threading.Thread(target=self._repeat, args=(call,)) for call in calls]

    def __enter__(self) -> Callers:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for one in self._threads:
            one.join()

    def _unary(self) -> None:
        assert self._stub.Import(ANT, timeout=60).name == "ANT"

    def _stream(self) -> None:
        assert len(list(self._stub.Watch(pb.Animal(name="count:200"), timeout=60))) == 200

    def _repeat(self, call: Callable[[], None]) -> None:
        while not self._ending.is_set():
            try:
                call()
            except BaseException as exc:
                self.failures.append(exc)
                return
            with self._counting:
                self.done += 1


def test_the_certificate_is_exchanged_under_calls_of_threads(
    zoo: Zoo, transport: str, certificate: Folder
) -> None:
    """Nothing is tried again, so that whatever fails is seen."""
    strict = {"client_retries": 0, "outlier_ejection": "off"}
    with Client(**zoo.settings, **strict, transport=transport, **certificate.settings) as client:
        keeper: IdentityKeeper = client._client.identity
        with Callers(rpc.KeeperStub(client.channel("zoo"))) as callers:
            eventually(lambda: callers.done > THREADS, "calls go on")
            for _ in range(EXCHANGES):
                before = keeper.current
                certificate.issue(zoo.ca, "keeper")
                eventually(lambda before=before: keeper.current != before, "the newer one is taken")
                eventually(lambda: connected_anew(client), "and shown to the service")
                done = callers.done
                eventually(lambda done=done: callers.done > done + THREADS, "calls go on")
        assert callers.failures == []
        assert (keeper.taken, keeper.refused) == (EXCHANGES + 1, 0)


def connected_anew(client: Client) -> bool:
    """Whether all calls go over connections that show the certificate of now."""
    inner = client._client
    channels = [one for target in inner.core.targets for one in target.channels.values()]
    return bool(channels) and all(
        one.pickable and one.secured is not None and one.secured.identity == inner.identity.current
        for one in channels
    )


def test_the_services_certificate_is_exchanged_under_calls_of_threads(
    zoo: Zoo, transport: str, certificate: Folder
) -> None:
    strict = {"client_retries": 0, "outlier_ejection": "off"}
    with Client(**zoo.settings, **strict, transport=transport, **certificate.settings) as client:
        with Callers(rpc.KeeperStub(client.channel("zoo"))) as callers:
            eventually(lambda: callers.done > THREADS, "calls go on")
            # Its log: another name is the only thing that tells it from the one before.
            name = f"zoo-of-{transport}"
            zoo.folder.issue(zoo.ca, name, "zoo")
            zoo.process.wait_for(f"a new certificate: {name}, valid until")
            done = callers.done
            eventually(lambda: callers.done > done + THREADS, "calls go on")
        assert callers.failures == []
    # And who comes now is shown it.
    with Client(**zoo.settings, transport=transport, **certificate.settings, tls_server_name=name) as client:
        assert rpc.KeeperStub(client.channel("zoo")).Import(ANT, timeout=30).name == "ANT"

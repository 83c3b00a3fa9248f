"""A server over transport fast, called by raw streams: headers, limits, floods, pings, ages, ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pymicro import Service, handler
from pymicro.base.errors import ConfigError, StartError
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.fast import FastServerTransport, call
from pymicro.serving.transport import CallDetails, ServedCall, ServedMethod
from pymicro.settings.config import Config
from pymicro_fast import Buffers
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import eventually

from .ends import Connection, End, started

CANCEL = 8
REFUSED_STREAM = 7
ENHANCE_YOUR_CALM = 11
UNARY, STREAM = Shape.UNARY_UNARY, Shape.STREAM_STREAM


class Methods:
    """What the tests call; each notes what it sees."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.started = 0
        self.ended: list[type[BaseException] | None] = []
        self.gate = asyncio.Event()
        self.seen: list[Any] = []
        self.changed = asyncio.Event()
        self.methods = {
            "/t/echo": ServedMethod(UNARY, self._noting(self.echo)),
            "/t/wait": ServedMethod(UNARY, self._noting(self.wait)),
            "/t/stubborn": ServedMethod(UNARY, self._noting(self.stubborn)),
            "/t/talk": ServedMethod(STREAM, self._noting(self.talk)),
            "/t/pour": ServedMethod(STREAM, self._noting(self.pour)),
            "/t/idle": ServedMethod(STREAM, self._noting(self.wait)),
        }

    def find(self, details: CallDetails) -> ServedMethod:
        self.seen.append(details)
        return self.methods.get(details.method) or ServedMethod(STREAM, self.unknown)

    def _noting(self, run: Any) -> Any:
        async def noted(request: Any, served: ServedCall) -> Any:
            self.started += 1
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.set()
            end = None
            try:
                return await run(request, served)
            except BaseException as exc:
                end = type(exc)
                raise
            finally:
                self.running -= 1
                self.ended.append(end)
                self.changed.set()

        return noted

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def echo(self, request: bytes, served: ServedCall) -> bytes:
        return request

    async def wait(self, request: Any, served: ServedCall) -> bytes:
        await self.gate.wait()
        return b"at last"

    async def stubborn(self, request: Any, served: ServedCall) -> bytes:
        while not self.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.gate.wait()
        return b"at last"

    async def talk(self, request: Any, served: ServedCall) -> None:
        while (message := await served.read()) is not grpc.aio.EOF:
            await served.write(message)

    async def pour(self, request: Any, served: ServedCall) -> None:
        for _ in range(100_000):
            await served.write(b"x" * 1000)

    async def unknown(self, request: Any, served: ServedCall) -> None:
        await served.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method", ())


class Running:
    def __init__(self, transport: FastServerTransport, methods: Methods, address: tuple[str, int]) -> None:
        self.transport = transport
        self.methods = methods
        self.address = address
        self.clients: list[Connection] = []

    async def connect(self, **options: Any) -> Connection:
        loop = asyncio.get_running_loop()

        def client() -> Connection:
            return Connection(loop, Buffers(), authority=b"here", **options)

        host, port = self.address
        if host.startswith("unix:"):
            _, made = await loop.create_unix_connection(client, host.removeprefix("unix:"))
        else:
            _, made = await loop.create_connection(client, host, port)
        self.clients.append(made)
        return made


@asynccontextmanager
async def serving(
    *options: tuple[str, Any], address: str = "127.0.0.1:0", **settings: Any
) -> AsyncIterator[Running]:
    transport = FastServerTransport(Config(**settings), options)
    methods = Methods()
    running = Running(transport, methods, await transport.listen(address, methods))
    await transport.start(lambda exc: None)
    try:
        yield running
    finally:
        methods.gate.set()
        for client in running.clients:
            client.abort("the test is over")
            await client.gone
        await transport.stop(5)
        assert not transport.cancelled
        assert not transport._connections


async def answer(connection: Connection, path: bytes, message: bytes = b"hello", **more: Any) -> End:
    """A call with one message, once it has ended."""
    stream = started(connection, path, **more)
    stream.send(message)
    stream.end()
    await stream.until(lambda: stream.ended or stream.closed)
    return stream


# Raw HTTP/2, for headers that the engine's client would not send


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is in no table (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
HELLO = b"\x00\x00\x00\x00\x05hello"


def request(stream: int, headers: dict[bytes, bytes], data: bytes | None = HELLO, end: bool = True) -> bytes:
    block = b"".join(literal(name, value) for name, value in headers.items())
    if data is None:
        return frame(1, 4 | end, stream, block)
    return frame(1, 4, stream, block) + frame(0, end, stream, data)


async def raw(running: Running, data: bytes, until: bytes) -> bytes:
    """All that the server says to these bytes, up to a text."""
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(GREETING + data)
    said = b""
    try:
        async with asyncio.timeout(10):
            while until not in said:
                piece = await reader.read(65536)
                assert piece, said
                said += piece
    finally:
        writer.close()
    return said


def headers(**changed: bytes) -> dict[bytes, bytes]:
    found = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/t/echo",
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    found.update(
        {name.replace("__", ":").replace("_", "-").encode(): value for name, value in changed.items()}
    )
    return found


@pytest.mark.parametrize(
    "kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;x=y", b"Application/GRPC"]
)
async def test_what_is_grpc_by_its_content_type_is_served(kind: bytes) -> None:
    async with serving() as running:
        said = await raw(running, request(1, headers(content_type=kind)), until=b"hello")
        assert b"hello" in said


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"content_type": b"text/html"}, b"415"),
        ({"content_type": b"application/grpcweb"}, b"415"),
        ({"__method": b"PUT"}, b"405"),
    ],
)
async def test_what_is_no_call_is_answered_in_http(changed: dict[str, bytes], status: bytes) -> None:
    async with serving() as running:
        # HPACK's Huffman code makes these three digits no shorter, so they stand there as they are.
        await raw(running, request(1, headers(**changed)), until=b"\x03" + status)
        assert not running.methods.seen
        assert not running.methods.started


async def test_a_path_that_is_no_method_is_unimplemented_and_the_connection_lives() -> None:
    async with serving() as running:
        client = await running.connect()
        for path in (b"/", b"/t", b"/\xff\xfe", b"/t/" + b"x" * 5000):
            stream = await answer(client, path)
            assert stream.grpc_status == 12
        assert (await answer(client, b"/t/echo")).take() == b"hello"


@pytest.mark.parametrize("text", [b"S", b"1", b"-1S", b"123456789S", b"1.5S", b"1s"])
async def test_a_malformed_timeout_is_an_error_and_no_handler_runs(text: bytes) -> None:
    async with serving() as running:
        client = await running.connect()
        stream = await answer(client, b"/t/echo", pairs=[(b"grpc-timeout", text)])
        assert (stream.grpc_status, running.methods.started) == (13, 0)


async def test_headers_above_the_limit_are_refused() -> None:
    async with serving() as running:
        client = await running.connect()
        stream = await answer(client, b"/t/echo", pairs=[(b"x", b"y" * 16_000)])
        assert stream.grpc_status == 0
        stream = await answer(client, b"/t/echo", pairs=[(b"x", b"y" * 8000), (b"z", b"y" * 8500)])
        assert (stream.grpc_status, running.methods.started) == (8, 1)


async def test_binary_metadata_is_read_with_and_without_padding_and_in_lists() -> None:
    async with serving() as running:
        client = await running.connect()
        pairs = [(b"a-bin", b"AAE="), (b"b-bin", b"AAE"), (b"c-bin", b"AAE=, AAI"), (b"d", b"text")]
        await answer(client, b"/t/echo", pairs=pairs)
        (details,) = running.methods.seen
        assert details.invocation_metadata == (
            ("a-bin", b"\x00\x01"), ("b-bin", b"\x00\x01"), ("c-bin", b"\x00\x01"), ("c-bin", b"\x00\x02"),
            ("d", "text"),
        )  # fmt: skip
        assert details.invocation_metadata[0].key == "a-bin"
        stream = await answer(client, b"/t/echo", pairs=[(b"a-bin", b"!")])
        assert (stream.grpc_status, stream.message) == (13, b"the value of metadata a-bin is no base64")


async def test_a_message_above_the_limit_is_refused_behind_those_before_it() -> None:
    async with serving(max_message_size=1000) as running:
        client = await running.connect()
        stream = await answer(client, b"/t/echo", b"x" * 1001)
        assert stream.grpc_status == 8
        assert b"1001 vs. 1000" in (stream.message or b"")
        stream = started(client, b"/t/talk")
        for size in (1, 1000, 1001):
            stream.send(b"x" * size)
        assert [len(await stream.read() or b"") for _ in range(2)] == [1, 1000]
        await stream.until(lambda: stream.ended)
        assert stream.grpc_status == 8
        await running.methods.until(lambda: running.methods.running == 0)


@pytest.mark.parametrize(("sent", "word"), [([], b"none"), ([b"a", b"b"], b"more")])
async def test_a_method_with_one_request_gets_one(sent: list[bytes], word: bytes) -> None:
    async with serving() as running:
        client = await running.connect()
        stream = started(client, b"/t/echo")
        for message in sent:
            stream.send(message)
        stream.end()
        await stream.until(lambda: stream.ended)
        assert (stream.grpc_status, running.methods.started) == (12, 0)
        assert word in (stream.message or b"")


async def test_half_a_message_at_the_end_is_an_error() -> None:
    async with serving() as running:
        # grpc-status 12 and 13, of two digits that Huffman's code does not shorten.
        said = await raw(running, request(1, headers(), HELLO[:-1]), until=b"\x0212")
        assert (b"hell" in said, running.methods.started) == (False, 0)
        await raw(running, request(1, headers(__path=b"/t/talk"), HELLO[:-1]), until=b"\x0213")
        await running.methods.until(lambda: running.methods.ended)
        assert running.methods.ended[0] is asyncio.CancelledError


async def test_a_reset_and_a_lost_connection_cancel_the_handler() -> None:
    async with serving() as running:
        methods = running.methods
        for how in ("reset", "lost"):
            client = await running.connect()
            stream = started(client, b"/t/wait")
            stream.send(b"")
            stream.end()
            await methods.until(lambda: methods.running == 1)
            if how == "reset":
                stream.reset()
            else:
                client.abort("lost")
            await methods.until(lambda: methods.running == 0)
            assert methods.ended.pop() is asyncio.CancelledError


async def test_a_deadline_cancels_the_handler_and_is_told() -> None:
    async with serving() as running:
        client = await running.connect()
        stream = await answer(client, b"/t/wait", timeout=0.02)
        assert (stream.grpc_status, stream.message) == (4, b"Deadline Exceeded")
        await running.methods.until(lambda: running.methods.running == 0)


async def test_a_deadline_is_told_behind_what_the_caller_has_not_read_yet() -> None:
    async with serving() as running:
        client = await running.connect()
        stream = started(client, b"/t/pour", timeout=0.05)
        await running.methods.until(lambda: running.methods.ended)  # held up, and late
        while await stream.read() is not None:
            pass
        # A reset would have looked like a cancellation by the handler.
        assert (stream.grpc_status, stream.error) == (4, 0)


async def test_who_never_reads_loses_it_some_time_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_LEFT_UNREAD", 0.05)
    async with serving() as running:
        client = await running.connect()
        stream = started(client, b"/t/pour", timeout=0.05)
        await stream.until(lambda: stream.closed)
        assert stream.error == CANCEL
        (connection,) = running.transport._connections
        assert (connection.queued, connection.open_streams) == (0, 0)


async def test_opened_and_reset_in_one_packet_starts_nothing() -> None:
    async with serving() as running:
        flood = b"".join(
            request(2 * number + 1, headers(), None, end=False)
            + frame(3, 0, 2 * number + 1, CANCEL.to_bytes(4))
            for number in range(5000)
        )
        # The ping is answered when all was read.
        said = await raw(running, flood + frame(6, 0, 0, b"finished"), until=b"finished")
        assert b"finished" in said
        assert running.methods.seen == []


async def test_handlers_that_ignore_their_cancellation_count_until_they_end() -> None:
    async with serving(("grpc.max_concurrent_streams", 10)) as running:
        client, methods = await running.connect(), running.methods
        for number in range(1, 11):
            stream = started(client, b"/t/stubborn")
            stream.send(b"")
            stream.end()
            await methods.until(lambda number=number: methods.started == number)
            stream.reset()
        refused = await answer(client, b"/t/echo")
        assert (refused.error, methods.running) == (REFUSED_STREAM, 10)
        methods.gate.set()
        await methods.until(lambda: methods.running == 0)
        assert (await answer(client, b"/t/echo")).take() == b"hello"
        assert methods.most == 10


async def test_more_streams_than_the_limit_wait_at_their_client() -> None:
    async with serving(("grpc.max_concurrent_streams", 3)) as running:
        client, methods = await running.connect(), running.methods
        await answer(client, b"/t/echo")  # the settings have come by now
        assert client.peer_max_streams == 3
        streams = [started(client, b"/t/idle") for _ in range(5)]
        await methods.until(lambda: methods.running == 3)
        methods.gate.set()
        for stream in streams:
            await stream.until(lambda stream=stream: stream.ended)
        assert methods.most == 3


async def test_a_caller_that_does_not_read_holds_the_handler_up_and_little_is_kept() -> None:
    async with serving() as running:
        client, methods = await running.connect(), running.methods
        stream = started(client, b"/t/pour")
        await stream.until(lambda: stream.available)
        (connection,) = running.transport._connections
        (pouring,) = connection.running
        most = 0
        for _ in range(50):
            await answer(client, b"/t/echo")  # a round trip: whatever goes on goes on
            most = max(most, pouring.queued)
        assert 0 < most < 65_536 + 1005
        assert methods.running == 1
        stream.reset()
        await methods.until(lambda: methods.running == 0)
        assert connection.queued == 0


async def test_a_handler_that_never_waits_leaves_turns_to_others() -> None:
    async with serving() as running:
        client = await running.connect()
        stream = started(client, b"/t/talk")
        for _ in range(10_000):
            stream.send(b"x")
        other = asyncio.create_task(answer(client, b"/t/echo"))
        got = 0
        while not other.done():
            assert await stream.read() is not None
            got += 1
            assert got < 9000


async def test_pings_between_calls_that_come_too_often_end_the_connection() -> None:
    async with serving() as running:
        client = await running.connect()
        await answer(client, b"/t/echo")
        for _ in range(3):
            client.ping(b"too soon")
        await answer(client, b"/t/echo")  # what is sent to a client forgives it
        for _ in range(4):
            client.ping(b"too soon")
        async with asyncio.timeout(10):
            await client.gone
        (goaway,) = [told for told in client.told if isinstance(told, tuple)][:1]
        assert goaway[1:] == (ENHANCE_YOUR_CALM, b"too_many_pings")


async def test_pings_as_often_as_the_node_says_are_welcome() -> None:
    async with serving(("grpc.http2.min_ping_interval_without_data_ms", 1)) as running:
        assert running.transport.ping_interval == "1ms"
        client = await running.connect()
        for _ in range(10):
            client.answered.clear()
            client.ping(b"anybody?")
            await client.answered.wait()
            await asyncio.sleep(0.002)  # longer than the interval: that is what is tried
        assert (await answer(client, b"/t/echo")).take() == b"hello"


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with serving(("grpc.server_handshake_timeout_ms", 30)) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        client = await running.connect()  # one that speaks stays
        assert (await answer(client, b"/t/echo")).take() == b"hello"


async def test_a_client_that_answers_no_ping_is_dead() -> None:
    options = (("grpc.keepalive_time_ms", 20), ("grpc.keepalive_timeout_ms", 20))
    async with serving(*options) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(GREETING)
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        client = await running.connect()
        stream = started(client, b"/t/idle")
        await running.methods.until(lambda: running.methods.running == 1)
        (connection,) = running.transport._connections
        before = connection.received
        async with asyncio.timeout(10):
            while connection.received < before + 3 * 17:  # noqa: ASYNC110  # three answers; bytes have no event
                await asyncio.sleep(0.01)
        assert not stream.closed


async def test_an_old_connection_ends_and_its_calls_do_not() -> None:
    async with serving(max_connection_age=0.05) as running:
        client = await running.connect()
        stream = started(client, b"/t/talk")
        stream.send(b"one")
        assert await stream.read() == b"one"
        async with asyncio.timeout(10):
            while sum(isinstance(told, tuple) for told in client.told) < 2:  # noqa: ASYNC110  # two GOAWAYs
                await asyncio.sleep(0.01)
        stream.send(b"two")
        assert await stream.read() == b"two"
        stream.end()
        await stream.until(lambda: stream.ended)
        async with asyncio.timeout(10):
            await client.gone
        assert stream.grpc_status == 0


async def test_after_its_grace_an_old_connection_is_cut() -> None:
    async with serving(("grpc.max_connection_age_grace_ms", 30), max_connection_age=0.05) as running:
        client = await running.connect()
        stream = started(client, b"/t/idle")
        await stream.until(lambda: stream.ended or stream.closed)
        assert (stream.grpc_status, stream.message) == (14, b"Cancelling all calls")
        async with asyncio.timeout(10):
            await client.gone


async def test_an_idle_connection_is_closed_if_that_was_asked_for() -> None:
    async with serving(("grpc.max_connection_idle_ms", 50)) as running:
        busy, idle = await running.connect(), await running.connect()
        stream = started(busy, b"/t/idle")
        async with asyncio.timeout(10):
            await idle.gone
        assert not stream.closed


async def test_a_stop_lets_calls_finish_and_takes_those_on_their_way() -> None:
    async with serving() as running:
        client, silent = await running.connect(), await asyncio.open_connection(*running.address)
        stream = started(client, b"/t/wait")
        stream.send(b"")
        stream.end()
        await running.methods.until(lambda: running.methods.running == 1)
        stopping = asyncio.create_task(running.transport.stop(10))
        late = await answer(client, b"/t/echo")  # sent before the client has heard of it
        assert late.take() == b"hello"
        assert await silent[0].read() is not None
        running.methods.gate.set()
        await stream.until(lambda: stream.ended)
        assert stream.take() == b"at last"
        async with asyncio.timeout(10):
            await stopping
            await client.gone
        silent[1].close()
        with pytest.raises(OSError):
            await asyncio.open_connection(*running.address)


async def test_a_stop_without_grace_cancels_and_says_so() -> None:
    async with serving() as running:
        client = await running.connect()
        streams = [started(client, path) for path in (b"/t/idle", b"/t/talk", b"/t/pour")]
        streams[1].send(b"one")
        assert await streams[1].read() == b"one"
        await running.methods.until(lambda: running.methods.running == 3)
        first = asyncio.create_task(running.transport.stop(60))
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            await running.transport.stop(None)
            await first
            await client.gone
        assert [stream.grpc_status for stream in streams[:2]] == [14, 14]
        assert streams[2].closed
        await running.methods.until(lambda: running.methods.running == 0)


async def test_the_port_is_taken_while_it_listens_and_free_after_the_stop() -> None:
    async with serving() as running:
        host, port = running.address
        with pytest.raises(StartError, match="is taken"):
            await FastServerTransport(Config()).listen(f"{host}:{port}", Methods())
        await running.transport.stop(None)
        again = FastServerTransport(Config())
        assert await again.listen(f"{host}:{port}", Methods()) == (host, port)
        await again.stop(None)


@pytest.mark.parametrize(("address", "peer"), [("[::1]:0", "ipv6:%5B::1%5D:"), (":0", "ipv4:127.0.0.1:")])
async def test_ipv6_and_all_interfaces(address: str, peer: str) -> None:
    async with serving(address=address) as running:
        if address == ":0":
            assert running.address[0] == "::"
            running.address = ("127.0.0.1", running.address[1])
        client = await running.connect()
        started(client, b"/t/idle")
        await running.methods.until(lambda: running.methods.running == 1)
        (connection,) = running.transport._connections
        assert connection.peer.startswith(peer)


async def test_a_unix_socket_is_served_and_its_file_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()  # whose process was killed
    async with serving(address=f"unix:{path}") as running:
        assert running.address == (f"unix:{path}", 0)
        client = await running.connect()
        assert (await answer(client, b"/t/echo")).take() == b"hello"
        with pytest.raises(StartError, match="is taken"):
            await FastServerTransport(Config()).listen(f"unix:{path}", Methods())
    assert not path.exists()


def test_an_option_of_grpc_core_alone_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"does not know the grpc server option grpc\.x"):
        FastServerTransport(Config(), [("grpc.x", 1)])
    with pytest.raises(ConfigError, match="is a number"):
        FastServerTransport(Config(), [("grpc.max_concurrent_streams", "many")])


async def test_memory_stays_flat_whatever_ends_the_calls() -> None:
    def kept() -> int:
        gc.collect()
        return sum(1 for one in gc.get_objects() if type(one).__name__ in ("FastServedCall", "Task"))

    async with serving() as running:
        client = await running.connect()
        before = kept()
        for number in range(400):
            path = (b"/t/echo", b"/t/wait", b"/t/talk", b"/t/pour")[number % 4]
            stream = started(client, path)
            stream.send(b"hello")
            if number % 3:
                stream.end()
            if number % 4 and number % 5:
                await answer(client, b"/t/echo")
            if path != b"/t/echo" or number % 2:
                stream.reset()
        await answer(client, b"/t/echo")  # all that was sent has come, before this one
        await running.methods.until(lambda: running.methods.running == 0)
        await eventually(lambda: not running.transport.cancelled, "what was cancelled has ended")
        assert kept() <= before + 2


class Keeper:
    @handler("Import")
    async def import_one(self, request: pb.Animal) -> pb.Animal:
        return request


def on_a_unix_socket(folder: Path, **more: Any) -> Service:
    service = Service(
        "zoo",
        registry="local",
        registry_address=str(folder / "registry"),
        transport="fast",
        server_address=f"unix:{folder}/s",
        **more,
    )
    service.add(Keeper(), pb, partial=True)
    return service


async def test_a_service_on_a_unix_socket_says_where_its_proxy_is(tmp_path: Path) -> None:
    async with (
        on_a_unix_socket(tmp_path, server_advertise="127.0.0.1:1"),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel,
    ):
        call = channel.unary_unary("/pymicro.tests.zoo.Keeper/Import")
        assert await call(pb.Animal(name="ant").SerializeToString(), timeout=10)
    with pytest.raises(ConfigError, match="set server_advertise"):
        async with on_a_unix_socket(tmp_path):
            pass
    assert not (tmp_path / "s").exists()

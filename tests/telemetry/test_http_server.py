"""The admin port among strangers: what they send and hold open costs little, and ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pymicro.base.errors import ConfigError, StartError
from pymicro.telemetry.admin import AdminPort, WritePage
from pymicro.telemetry.http_server import HttpLimits, listen
from pymicro.telemetry.json_page import Rows, json_page
from tests.telemetry.held import least_held
from tests.telemetry.http import PATIENCE, connected, get

MANY = HttpLimits(rate=1e6, burst=1_000_000)
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def page(*pieces: bytes) -> WritePage:
    async def write() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return lambda accept: ("text/plain", write())


@asynccontextmanager
async def admin(limits: HttpLimits | None = None, **pages: WritePage | str) -> AsyncIterator[AdminPort]:
    listening = await listen("127.0.0.1", 0, "admin_address")
    by_path = {f"/{name}": page for name, page in pages.items()}
    async with AdminPort(
        listening, "a test", live=list, started=list, ready=lambda: ["not yet"], pages=by_path, limits=limits
    ) as port:
        yield port


async def connections(port: AdminPort, count: int) -> None:
    """Wait until it has so many."""
    async with asyncio.timeout(PATIENCE):
        while port.connections != count:  # noqa: ASYNC110 – nobody else needs to be told
            await asyncio.sleep(0.01)


async def test_probes_and_pages_are_answered_and_the_first_page_lists_them() -> None:
    async with admin(big=page(b"a", b"b"), metrics="they need the extra `metrics`") as port:
        number = port.bound[1]
        assert (await get(number, "/livez")).text == "ok\n"
        ready = await get(number, "/readyz?verbose")
        assert (ready.status, ready.text) == (503, "not yet\n")
        assert (await get(number, "/big")).body == b"ab"
        assert (await get(number, "/")).text == "a test\n\n/livez\n/startupz\n/readyz\n/big\n"
        metrics = await get(number, "/metrics")
        assert (metrics.status, metrics.text) == (404, "they need the extra `metrics`\n")
        assert (await get(number, "/nothing")).status == 404
        assert (await get(number, "http://any/livez")).status == 200


async def test_head_has_the_length_and_no_body_and_a_connection_goes_on() -> None:
    async with admin(big=page(b"abc")) as port, connected(port.bound[1]) as peer:
        peer.send(b"HEAD /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await peer.reply(body=False)
        assert (head.status, head.headers["content-length"]) == (200, "3")
        peer.send(GET)
        reply = await peer.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "keep-alive")


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with admin(limits=MANY, big=page(b"abc")) as port, connected(port.bound[1]) as peer:
        peer.send((GET + GET.replace(b"/livez", b"/big")) * 50)
        bodies = [(await peer.reply()).body for _ in range(100)]
        assert bodies == [b"ok\n", b"abc"] * 50


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: yes\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (bytes(range(256)) * 4 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_for_a_page_gets_one_answer_and_the_connection_ends(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with admin() as port:
        async with connected(port.bound[1]) as peer:
            peer.send(request_)
            assert (await peer.reply()).status == status
            assert await peer.ended() == b""
        assert (await get(port.bound[1], "/livez")).status == 200
    assert caplog.text == ""


async def test_whoever_sends_a_request_too_slowly_is_disconnected() -> None:
    async with admin(HttpLimits(request=0.2)) as port:
        async with AsyncExitStack() as stack:
            silent = await stack.enter_async_context(connected(port.bound[1]))
            slow = await stack.enter_async_context(connected(port.bound[1]))
            slow.send(GET[:1])
            junk = await stack.enter_async_context(connected(port.bound[1]))
            junk.send(b"\x00\xff" * 100)
            for peer in (silent, slow, junk):
                assert await peer.ended() == b""
        assert (await get(port.bound[1], "/livez")).status == 200


async def test_whoever_trickles_headers_for_ever_is_disconnected() -> None:
    async with admin(HttpLimits(request=0.3)) as port, connected(port.bound[1]) as peer:
        peer.send(GET[:-2])
        ended = asyncio.create_task(peer.ended())
        while not ended.done():
            peer.send(b"X: y\r\n")
            await asyncio.wait([ended], timeout=0.02)
        # Of the two limits, the one of bytes may come first.
        assert ended.result()[:12] in (b"", b"HTTP/1.1 431")


async def test_an_idle_connection_ends_at_its_limit() -> None:
    async with admin(HttpLimits(idle=0.1)) as port, connected(port.bound[1]) as peer:
        peer.send(GET)
        assert (await peer.reply()).status == 200
        assert await peer.ended() == b""


async def test_a_half_closed_connection_gets_its_answer() -> None:
    async with admin() as port, connected(port.bound[1]) as peer:
        peer.send(GET)
        peer.writer.write_eof()
        assert (await peer.reply()).status == 200
        assert await peer.ended() == b""


async def test_whoever_does_not_read_an_answer_is_disconnected() -> None:
    async with admin(HttpLimits(write=0.3), big=page(b"x" * 20_000_000)) as port:
        with socket.create_connection(port.bound) as peer:
            peer.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await connections(port, 1)
            await connections(port, 0)


async def test_connections_that_wait_longest_make_room_for_new_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with admin(HttpLimits(connections=4)) as port, AsyncExitStack() as stack:
        number = port.bound[1]
        idle = []
        for _ in range(4):
            peer = await stack.enter_async_context(connected(number))
            peer.send(GET)
            await peer.reply()
            idle.append(peer)
        assert (await get(number, "/livez")).status == 200
        assert await idle[0].ended() == b""
        idle[3].send(GET)
        assert (await idle[3].reply()).status == 200
    assert caplog.text.count("\n") == 1


@pytest.mark.once
async def test_ten_thousand_connections_leave_it_working_and_the_log_readable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with admin(MANY) as port:
        address = port.bound
        opened: list[socket.socket] = []
        room = min(400, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        try:
            for _ in range(10_000):
                peer = socket.socket()
                peer.setblocking(False)
                opened.append(peer)
                with contextlib.suppress(ConnectionError):  # it was closed at once
                    await asyncio.get_running_loop().sock_connect(peer, address)
                assert port.connections <= 64
                if len(opened) > room:
                    opened.pop(0).close()
            assert (await get(address[1], "/livez")).status == 200
        finally:
            for peer in opened:
                peer.close()
    assert caplog.text.count("\n") <= 2


async def test_requests_and_connections_come_no_faster_than_their_rate() -> None:
    async with admin(HttpLimits(rate=100, burst=1)) as port, connected(port.bound[1]) as peer:
        begun = time.monotonic()
        peer.send(GET * 30)
        for _ in range(30):
            await peer.reply()
        assert time.monotonic() - begun >= 0.28


async def test_a_page_is_made_once_for_all_who_ask_meanwhile_and_holds_up_nobody() -> None:
    made = 0

    def parts() -> list[int]:
        nonlocal made
        made += 1
        return list(range(20_000))

    async with admin(numbers=json_page(lambda: {"numbers": Rows({"n": part} for part in parts())})) as port:

        async def many() -> None:
            nonlocal made
            made = 0
            pages = await asyncio.gather(*(get(port.bound[1], "/numbers") for _ in range(10)))
            assert len({page.body for page in pages}) == 1
            assert pages[0].json["numbers"][-1] == {"n": 19_999}
            assert 1 <= made < 10

        assert await least_held(many, 0.005) <= 0.005


async def test_a_page_that_cannot_be_made_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, int]:
        raise RuntimeError("a bug")

    async with admin(broken=json_page(broken)) as port:
        for _ in range(3):
            reply = await get(port.bound[1], "/broken")
            assert (reply.status, reply.text) == (500, "this page cannot be made: the log says why\n")
    assert caplog.text.count("RuntimeError: a bug") == 1


async def test_the_end_closes_connections_at_once() -> None:
    async with AsyncExitStack() as stack:
        async with admin() as port:
            peer = await stack.enter_async_context(connected(port.bound[1]))
            peer.send(GET)
            await peer.reply()
        assert await peer.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            await get(port.bound[1], "/livez")


async def test_a_port_that_cannot_be_had_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"admin_address 127\.0\.0\.1:{port} is taken"):
            await listen("127.0.0.1", port, "admin_address")
    with pytest.raises(StartError, match=r"cannot listen on admin_address 192\.0\.2\.7:1"):
        await listen("192.0.2.7", 1, "admin_address")
    with pytest.raises(ConfigError, match="does not resolve"):
        await listen("nowhere.invalid", 1, "admin_address")


async def test_all_addresses_are_one_socket_of_both_families() -> None:
    with await listen("", 0, "admin_address") as listening:
        both = listening.family is socket.AF_INET6
        assert both == socket.has_dualstack_ipv6()

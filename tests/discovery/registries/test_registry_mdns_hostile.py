"""What peers of registry `mdns` say, and how much of it is believed: from go-micro's forms to nonsense."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dns.rrset
import pytest

from pymicro.base.log_quota import LogQuota
from pymicro.base.watches import Watches
from pymicro.discovery.registries.mdns import link, responder, text, watch
from pymicro.discovery.registries.mdns.interfaces import place
from pymicro.discovery.registries.mdns.messages import Seen
from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
from pymicro.testing.waiting import closed, expect, first
from tests.discovery.registries.mdns_support import (
    GROUP,
    PATIENCE,
    QUICK,
    free_port,
    make,
    node,
    packed,
    peer,
    record,
    response,
    said,
    text_record,
)

NAME = "greeter-1.greeter.micro."


def document(**changes: Any) -> dict[str, Any]:
    """What a go-micro node's text says, with one thing or another changed."""
    fields = {
        "Service": "greeter",
        "Version": "1.2.3",
        "Endpoints": None,
        "Metadata": {"protocol": "grpc"},
    }
    return {key: value for key, value in (fields | changes).items() if value is not ...}


async def watch_answered_with(packets: list[bytes], wanted: list[Node]) -> None:
    """A watch whose question gets `packets` sees `wanted`, and a last node that shows that all were read."""
    port = free_port()
    async with make(port) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(expect(sets, [*wanted, node(99)], within=PATIENCE))
        asked = await speaker.group.next_question()
        speaker.tell(*packets, said(99), to=asked.source)
        await watching
        await closed(sets)


# Other ways to say the same


REQUEST = {"name": "HelloRequest", "type": "HelloRequest", "values": [{"name": "name", "type": "string"}]}

FORMS: dict[str, tuple[bytes, Node]] = {
    "go-micro's": (said(), node()),
    "an announcement": (said(pointer=False), node()),
    "endpoints": (
        said(document=document(Endpoints=[{"name": "Greeter.Hello", "request": REQUEST, "metadata": {}}])),
        node(
            endpoints=(
                Endpoint("Greeter.Hello", Value("HelloRequest", "HelloRequest", (Value("name", "string"),))),
            )
        ),
    ),
    "an HTTP broker": (
        said(document=document(Metadata={"broker": "http", "topic": "x"})),
        node(metadata={"broker": "http", "topic": "x"}),
    ),
    "no version, null metadata": (
        said(document=document(Version=..., Metadata=None)),
        node(version="", metadata={}),
    ),
    "unknown keys": (said(document=document(Later=[1])), node()),
    "a null endpoint": (said(document=document(Endpoints=[None])), node()),
    "upper-case hex": (said(strings=[part.upper() for part in packed(document())]), node()),
    "many short strings": (
        said(strings=[part[at : at + 7] for part in packed(document()) for at in range(0, len(part), 7)]),
        node(),
    ),
    "text first, and other records between": (
        response(
            text_record(NAME, packed(document())),
            record(NAME, "NSEC", "greeter-1.greeter.micro. A SRV"),
            record("host.", "AAAA", "fd00::7"),
            record("host.", "A", "10.0.0.7"),
            record("host.", "HINFO", '"a" "b"'),
            record(NAME, "SRV", "0 0 80 host."),
        ),
        node(address="10.0.0.7:80"),
    ),
    "IPv6": (said(address="fd00::7"), node(address="[fd00::7]:20001")),
    "an address at the node's own name": (
        response(
            record(NAME, "SRV", f"10 1 80 {NAME}"),
            record(NAME, "A", "10.0.0.7"),
            text_record(NAME, packed(document())),
        ),
        node(address="10.0.0.7:80"),
    ),
}


@pytest.mark.parametrize(("packet", "wanted"), FORMS.values(), ids=FORMS.keys())
async def test_a_node_is_understood(packet: bytes, wanted: Node, caplog: pytest.LogCaptureFixture) -> None:
    await watch_answered_with([packet], [wanted])
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


# Nonsense: (packet, what the log says of it; nothing for what is no fault)


def bomb(size: int) -> list[bytes]:
    """Strings of a text that unpacks to `size` bytes."""
    hexed = zlib.compress(b'{"Service":"greeter","Version":"' + b"x" * size).hex().encode()
    return [hexed[at : at + 255] for at in range(0, len(hexed), 255)]


def with_text(text: bytes) -> bytes:
    return said(strings=[text[at : at + 255] for at in range(0, len(text), 255)] or [b""])


JUNK: dict[str, tuple[bytes, str]] = {
    "a byte": (b"\0", "no DNS message"),
    "a line of text": (b"hello there, this is no DNS at all\n", "no DNS message"),
    "a header that promises much": (struct.pack("!HHHHHH", 0, 0, 99, 0, 0, 0), "no DNS message"),
    "a name that refers to itself": (
        struct.pack("!HHHHHH", 0, 0, 1, 0, 0, 0) + b"\xc0\x0c\x00\x0c\x00\x01",
        "no DNS message",
    ),
    "an update": (bytes([0, 0, 0x28, 0, *[0] * 8]), "opcode"),
    "a failure": (bytes([0, 0, 0x84, 3, *[0] * 8]), "opcode or response code"),
    "cut off": (said()[:-40], ""),
    "a text in no hex": (with_text(b"hello"), "not in hex"),
    "a text not packed": (with_text(b"00ff00"), "not packed by zlib"),
    "an empty text": (with_text(b""), "breaks off"),
    "half a text": (said(strings=[b"".join(packed(document()))[:-20]]), "breaks off"),
    "a bomb": (said(strings=bomb(8 << 20)), "more than 262144 bytes when unpacked"),
    "no JSON": (with_text(zlib.compress(b"{").hex().encode()), "Expecting property name"),
    "a list": (said(document=[1]), "it is list and no object"),
    "nested": (with_text(zlib.compress(b"[" * 100_000).hex().encode()), "nested too deep"),
    "a service that is a number": (said(document=document(Service=7)), "'Service' is int"),
    "half a character": (said(document=document(Version="\ud800")), "no valid unicode"),
    "metadata in a list": (said(document=document(Metadata=[1])), "list found where an object belongs"),
    "an endpoint that is a number": (
        said(document=document(Endpoints=[1])),
        "int found where an object belongs",
    ),
    "much metadata": (
        said(document=document(Metadata={str(number): "x" for number in range(200)})),
        "200 entries",
    ),
    "a long version": (said(document=document(Version="v" * 1000)), "'Version' has 1000 characters"),
    "an address for nobody": (said(address="0.0.0.0"), "cannot be dialled"),
    "an address for many": (said(address="224.0.0.1"), "cannot be dialled"),
    "an address of its own link": (said(address="fe80::1"), "cannot be dialled"),
    "another service": (said(document=document(Service="other")), ""),
    "another case": (said(document=document(Service="Greeter")), ""),
    "no port": (said(port=0), ""),
    "no address": (
        response(record(NAME, "SRV", "10 1 80 host."), text_record(NAME, packed(document()))),
        "",
    ),
    "no text": (response(record(NAME, "SRV", "10 1 80 host."), record("host.", "A", "10.0.0.1")), ""),
    "a goodbye for nobody": (said(ttl=0), ""),
    "a name with lines": (
        response(
            record("a\\010b.greeter.micro.", "SRV", "10 1 80 host."),
            record("host.", "A", "10.0.0.1"),
            text_record("a\\010b.greeter.micro.", packed(document())),
        ),
        "not printable",
    ),
    "a printer": (
        response(
            record("_ipp._tcp.local.", "PTR", "printer._ipp._tcp.local."),
            record("printer._ipp._tcp.local.", "SRV", "0 0 631 printer.local."),
            text_record("printer._ipp._tcp.local.", [b"txtvers=1"]),
        ),
        "",
    ),
}


@pytest.mark.parametrize(("packet", "complaint"), JUNK.values(), ids=JUNK.keys())
async def test_nonsense_is_passed_over_and_told_once(
    packet: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    await watch_answered_with([packet] * 3, [])
    told = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(told) == bool(complaint), told
    if complaint:
        assert complaint in told[0]
        assert "127.0.0.1" in told[0]
        assert "\n" not in told[0]


def test_a_bomb_is_not_unpacked() -> None:
    strings = bomb(16 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="when unpacked"):
            text.load(b"".join(strings))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 << 20, f"{most} bytes were taken"


async def test_a_flood_of_nonsense_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await watch_answered_with(
        [said(number, document=document(Version="v" * (600 + number))) for number in range(200)], []
    )
    told = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(told) == 20


async def test_a_flood_of_packets_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if each packet took as long as several may together.
    monkeypatch.setattr(link, "_SLICE", 0.0)
    turned = 0
    heard: list[int] = []
    all_heard = asyncio.Event()

    def hear(data: bytes, source: object, to_group: bool) -> Iterator[None]:
        # A packet of two nodes.
        for _ in range(2):
            heard.append(turned)
            if len(heard) == 100:
                all_heard.set()
            yield

    async def other() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    port = free_port()
    listener = link.Link(place((f"127.0.0.1:{port}",)), hear, "a link")
    async with peer(port) as speaker:
        listener.open()
        task = asyncio.create_task(other())
        try:
            for _ in range(50):  # they all lie there when the first one is read
                speaker.group.transport.sendto(b"x", (GROUP, port))
            async with asyncio.timeout(PATIENCE):
                await all_heard.wait()
        finally:
            task.cancel()
            listener.close()
    # Between any two.
    assert len(set(heard)) == 100


async def test_a_link_that_is_closed_within_a_packet_takes_no_more_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "_SLICE", 0.0)
    begun, ended = asyncio.Event(), []

    def hear(data: bytes, source: object, to_group: bool) -> Iterator[None]:
        begun.set()
        yield
        ended.append(data)
        yield

    port = free_port()
    listener = link.Link(place((f"127.0.0.1:{port}",)), hear, "a link")
    async with peer(port) as speaker:
        listener.open()
        speaker.group.transport.sendto(b"x", (GROUP, port))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        listener.close()
        ended.clear()
        for _ in range(3):
            await asyncio.sleep(0)
    assert not ended


async def test_nodes_past_the_most_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "MOST_NODES", 3)
    port = free_port()
    async with make(port) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(first(sets, within=PATIENCE))
        asked = await speaker.group.next_question()
        speaker.tell(*(said(number) for number in range(10)), to=asked.source)
        assert await watching == NodeSet.of(node(number) for number in range(3))
        await closed(sets)
    assert caplog.text.count("more than 3 nodes") == 1


async def test_a_host_with_many_nodes_does_not_lock_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_NODES", 64)
    complaints: list[str] = []
    listener = link.Link(place((f"127.0.0.1:{free_port()}",)), lambda *_: iter(()), "a link")
    listener.open()
    try:
        record = Watches().begin("answers")
        quota = LogQuota(watch.log, "")
        one = watch.MdnsWatch(
            listener, QUICK, "greeter", lambda _, why: complaints.append(why), quota, record
        )
        packed_text = b"".join(packed(document()))

        def say(number: int, host: str) -> None:
            seen = Seen(f"greeter-{number}.greeter.micro.", 1000 + number, (host,), packed_text, 120)
            one.hear(seen, (host, 5353))

        def told() -> Counter[str]:
            return Counter(known.node.address.partition(":")[0] for known in one._entries.values())

        for number in range(200):
            say(number, "10.6.6.6")
        assert told() == {"10.6.6.6": 64}
        for number in range(10):
            say(1000 + number, f"10.0.0.{number}")
        assert told() == {"10.6.6.6": 54, **{f"10.0.0.{number}": 1 for number in range(10)}}
        # The flood goes on, and gets no more than it has.
        for number in range(200, 400):
            say(number, "10.6.6.6")
        assert told()["10.6.6.6"] == 54
        assert "more than 64 nodes" in complaints[-1]
    finally:
        one._gathering.cancel()
        listener.close()


async def test_nodes_that_say_too_much_together_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(json.dumps(document()))
    monkeypatch.setattr(watch, "MOST_TEXT", 2 * size)
    await watch_answered_with([said(1), said(2, document=document(Version="a longer version"))], [node(1)])


async def test_a_message_that_holds_several_nodes_is_understood() -> None:
    # python-zeroconf's way; and go-micro's nodes of one machine share its name.
    records = []
    for number in (1, 2):
        name = f"greeter-{number}.greeter.micro."
        records += [
            record("greeter.micro.", "PTR", name),
            record(name, "SRV", f"10 1 {20000 + number} host."),
            text_record(name, packed(document())),
        ]
    await watch_answered_with([response(*records, record("host.", "A", "127.0.0.1"))], [node(1), node(2)])


async def test_a_node_of_a_longer_name_is_not_one_of_its_ending() -> None:
    port = free_port()
    async with make(port) as registry:
        for name in ("b", "a.b", "x.a.b"):
            await registry.register(node(1, name))
        for name in ("b", "a.b", "x.a.b"):
            sets = registry.watch(name)
            assert await first(sets, within=PATIENCE) == NodeSet.of([node(1, name)])
            await closed(sets)
        assert await registry.services() == ["a.b", "b", "x.a.b"]


async def test_the_list_of_services_is_bounded_by_what_can_be_printed() -> None:
    port = free_port()
    async with make(port) as registry, peer(port) as speaker:
        listing = asyncio.ensure_future(registry.services())
        asked = await speaker.group.next_question()
        names = ["go.micro.srv.x", "greeter", "a\\010b"]
        speaker.tell(
            *(response(record("_services.micro.", "PTR", f"{name}._services.micro.")) for name in names),
            response(record("_services.micro.", "PTR", "elsewhere.micro.")),
            response(record("_services.micro.", "PTR", "gone._services.micro.", 0)),
            to=asked.source,
        )
        assert await listing == ["go.micro.srv.x", "greeter"]


GOODBYES = {
    "pointer": record("greeter.micro.", "PTR", NAME, 0),
    "port": record(NAME, "SRV", "10 1 20001 host.", 0),
    "text": text_record(NAME, packed(document()), 0),
}


@pytest.mark.parametrize("goodbye", GOODBYES.values(), ids=GOODBYES.keys())
async def test_a_goodbye_of_one_record_is_enough(goodbye: dns.rrset.RRset) -> None:
    port = free_port()
    async with make(port) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(expect(sets, [node(1), node(2)], within=PATIENCE))
        asked = await speaker.group.next_question()
        speaker.tell(said(1), said(2), to=asked.source)
        await watching
        speaker.tell(response(goodbye))
        await expect(sets, [node(2)], within=PATIENCE)
        await closed(sets)


async def test_many_questions_at_once_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "_MOST_PENDING", 20)
    port = free_port()
    async with make(port) as registry, peer(port) as asker:
        for number in range(10):
            await registry.register(node(number))
        for _ in range(50):
            asker.ask("greeter.micro.", id=1)
        await asker.answers(10)
        # It goes on answering.
        asker.ask("greeter-3.greeter.micro.", "SRV", id=2)
        while True:
            heard = await asker.own.next()
            if heard.message.id == 2:
                break

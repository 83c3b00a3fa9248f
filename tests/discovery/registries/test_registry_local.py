"""Registry `local`: its folder, its files, and what may lie there."""

# ruff: noqa: ASYNC240 - files in a temporary folder block nobody in a test

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.backoff import Backoff
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local import scan as scanning
from pymicro.discovery.registries.local.folder import LARGEST
from pymicro.nodes.node import Endpoint, Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import closed, expect, first
from tests.processes import Processes

OWNER = str(Path(__file__).with_name("local_owner.py"))
PATIENCE = 15.0
SOMEBODY = 12345

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


def make(folder: str | Path) -> LocalRegistry:
    return LocalRegistry(load({"registry_address": [str(folder)]}, environ={}))


def node(number: int = 1, **changes: Any) -> Node:
    fields = {"id": f"n{number}", "address": f"127.0.0.1:{20000 + number}", "service": "greeter", **changes}
    return Node(**fields)


def owned(address: str) -> Node:
    """The node `local_owner.py` registers for an address."""
    return Node(id=f"id-{address}", address=address, service="greeter")


def files(folder: str | Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextlib.contextmanager
def held(path: Path, content: bytes) -> Iterator[None]:
    """A file as a living owner would hold it, with this content."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        yield


def name(number: int) -> str:
    return f"{number:032x}.node"


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


# Owners that die


async def test_a_killed_owner_is_gone_although_its_forked_child_lives_on(
    registry_folder: str, processes: Processes
) -> None:
    owner = processes.python(OWNER, registry_folder, "--fork", "127.0.0.1:1")
    child = int((await asyncio.to_thread(owner.wait_for, r"child (\d+)"))[1])
    try:
        await asyncio.to_thread(owner.wait_for, "ready")
        async with make(registry_folder) as registry:
            sets = registry.watch("greeter")
            await expect(sets, [owned("127.0.0.1:1")], within=PATIENCE)
            await asyncio.to_thread(owner.kill)
            await expect(sets, [], within=PATIENCE)
            os.kill(child, 0)  # still there
            await sets.aclose()
        assert files(registry_folder) == []
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_forked_child_that_ends_takes_nothing_back(
    registry_folder: str, processes: Processes
) -> None:
    program = """
import asyncio, os, sys
from pymicro.settings.config import load
from pymicro.nodes.node import Node
from pymicro.discovery.registries.local import LocalRegistry

async def main():
    async with LocalRegistry(load({"registry_address": sys.argv[1]}, environ={})) as registry:
        await registry.register(Node(id="a", address="127.0.0.1:1", service="greeter"))
        if (pid := os.fork()) == 0:
            # What leaving the registry does. Since Python 3.14 the loop cannot go on in a child.
            for record in registry._records.values():
                record.remove()
            os._exit(0)
        os.waitpid(pid, 0)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    owner = processes.python("-c", program, registry_folder)
    await asyncio.to_thread(owner.wait_for, "ready")
    async with make(registry_folder) as registry:
        sets = registry.watch("greeter")
        assert len(await first(sets, within=PATIENCE)) == 1
        await sets.aclose()


async def test_processes_that_start_at_once_make_one_folder(tmp_path: Path, processes: Processes) -> None:
    folder = tmp_path / "made" / "here"
    addresses = [f"127.0.0.1:{port}" for port in range(1, 7)]
    started = [processes.python(OWNER, str(folder), address) for address in addresses]
    for owner in started:
        await asyncio.to_thread(owner.wait_for, "ready")
    async with make(folder) as registry:
        sets = registry.watch("greeter")
        await expect(sets, map(owned, addresses), within=PATIENCE)
        await sets.aclose()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_service_that_stops_leaves_no_file(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        await registry.register(node(1))
        await registry.register(node(2))
        assert len(files(registry_folder)) == 2
        await registry.deregister(node(1))
        assert len(files(registry_folder)) == 1
    assert files(registry_folder) == []


# The folder


def test_the_default_folder_is_the_users_own_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    registry = LocalRegistry(load(environ={}))
    assert registry.describe() == f"registry local ({tmp_path}/pymicro-{os.geteuid()})"
    assert files(tmp_path) == []  # nothing is made before it is used


async def test_a_relative_folder_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = make("here")
    monkeypatch.chdir("/")
    async with registry:
        assert (tmp_path / "here").is_dir()


def test_two_folders_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one folder, not 2: /a, /b"):
        LocalRegistry(load({"registry_address": ["/a", "/b"]}, environ={}))


async def refused(folder: Path, match: str) -> None:
    with pytest.raises(RegistryError, match=match) as refusal:
        async with make(folder):
            pass
    assert str(folder) in str(refusal.value)


async def test_a_symbolic_link_is_no_folder(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    await refused(tmp_path / "link", "symbolic link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    await refused(tmp_path / "dangling", "symbolic link")


async def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await refused(tmp_path / "file", "is no folder")
    await refused(tmp_path / "file" / "in it", "cannot make")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o702])
async def test_a_folder_open_to_others_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    await refused(folder, f"mode {mode:o}.*chmod 700")


@root_only
async def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, SOMEBODY, SOMEBODY)
    await refused(folder, f"belongs to uid {SOMEBODY} and not to uid 0.*--registry-address")


@root_only
async def test_a_folder_that_cannot_be_written_fails_registering_with_a_reason(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent == Path(tempfile.gettempdir()):
            break  # the folders of this run are pytest's, and closed to others
        parent.chmod(0o755)
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    os.chown(folder, SOMEBODY, SOMEBODY)
    os.seteuid(SOMEBODY)
    try:
        async with make(folder) as registry:
            with pytest.raises(RegistryError, match=r"cannot register greeter at 127.*Permission denied"):
                await registry.register(node())
            assert await registry.services() == []
    finally:
        os.seteuid(0)


async def test_a_file_system_without_locks_is_refused_with_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    await refused(tmp_path / "folder", r"No locks available.*--registry mdns")


async def test_a_folder_that_is_swapped_for_a_link_fails_the_watch(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    async with make(folder) as registry:
        await registry.register(node())
        sets = registry.watch("greeter")
        await expect(sets, [node()], within=PATIENCE)
        folder.rename(tmp_path / "away")
        folder.symlink_to(tmp_path / "away")
        with pytest.raises(RegistryError, match="symbolic link"):
            await expect(sets, [], within=PATIENCE)


async def test_a_registry_that_is_left_ends_its_watches(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        sets = registry.watch("greeter")
        await first(sets, within=PATIENCE)
    with pytest.raises(RegistryError, match="closed"):
        await first(sets, within=PATIENCE)
    with pytest.raises(RuntimeError, match="async with"):
        await registry.services()


# Files


async def test_registering_again_makes_a_removed_file_or_folder_again(registry_folder: str) -> None:
    async with make(registry_folder) as registry, make(registry_folder) as other:
        await registry.register(node())
        (only,) = files(registry_folder)
        Path(registry_folder, only).unlink()
        assert await other.services() == []
        await registry.register(node())
        assert await other.services() == ["greeter"]
        shutil.rmtree(registry_folder)
        await registry.register(node())
        assert await other.services() == ["greeter"]
        assert len(files(registry_folder)) == 1


async def test_registering_again_keeps_the_file_and_makes_it_young(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        await registry.register(node())
        (only,) = files(registry_folder)
        age(Path(registry_folder, only), 1e6)
        await registry.register(node())
        assert files(registry_folder) == [only]
        assert time.time() - Path(registry_folder, only).stat().st_mtime < 60


async def test_files_are_for_their_user_only_and_tell_nothing_by_their_name(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        await registry.register(node(service="../größe"))
        (only,) = files(registry_folder)
        assert stat.S_IMODE(Path(registry_folder, only).stat().st_mode) == 0o600
        assert "gr" not in only


async def test_a_dead_owners_file_is_removed(registry_folder: str) -> None:
    dead = Path(registry_folder, name(1))
    dead.write_text("whatever")
    async with make(registry_folder) as registry:
        assert await registry.services() == []
    assert not dead.exists()


@pytest.mark.parametrize("what", ["the folder", "the files"])
async def test_what_somebody_removes_comes_back_and_no_set_shows_that(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "registry"
    async with make(folder) as one, make(folder) as other, make(folder) as reader:
        # Owners look after their files at moments of their own.
        await one.register(node(1))
        await asyncio.sleep(scanning.MENDED / 2)
        await other.register(node(2))
        directory = Directory(reader, backoff=lambda: Backoff(0.01, 0.02))
        async with directory, aclosing(directory.watch("greeter")) as sets:
            await expect(sets, [node(1), node(2)], within=PATIENCE)
            seen: list[NodeSet] = []

            async def watch() -> None:
                async for nodes in sets:
                    seen.append(nodes)  # noqa: PERF401 # as they come

            watching = asyncio.create_task(watch())
            before = files(folder)
            if what == "the folder":
                shutil.rmtree(folder)
            else:
                (folder / before[0]).unlink()
            async with asyncio.timeout(PATIENCE):
                while not folder.exists() or len(files(folder)) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            # Past the time for which a lost node stays.
            await asyncio.sleep(2 * scanning.MENDED + 0.5)
            assert await first(reader.watch("greeter"), within=PATIENCE) == NodeSet.of([node(1), node(2)])
            watching.cancel()
            await asyncio.wait([watching])
            if what == "the folder":
                assert seen == []


async def test_a_node_that_was_in_a_removed_folder_and_is_gone_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    async with make(folder) as one, make(folder) as reader:
        await one.register(node(1))
        other = await make(folder).__aenter__()
        await other.register(node(2))
        sets = reader.watch("greeter")
        await expect(sets, [node(1), node(2)], within=PATIENCE)
        shutil.rmtree(folder)
        await other.__aexit__(None, None, None)
        await closed(sets)
        async with Directory(reader, backoff=lambda: Backoff(0.01, 0.02)) as directory:
            await expect(directory.watch("greeter"), [node(1)], within=PATIENCE)


def test_without_a_temporary_folder_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigError, match=r"no folder to write in.*set registry_address"):
        LocalRegistry(load({}, environ={}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert LocalRegistry(load({}, environ={})).describe() == f"registry local ({tmp_path / 'pymicro'})"


@root_only
def test_a_name_that_somebody_else_took_first_is_left_to_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = tmp_path / f"pymicro-{os.geteuid()}"
    taken.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert str(taken) in LocalRegistry(load({}, environ={})).describe()
    os.chown(taken, SOMEBODY, SOMEBODY)
    assert str(tmp_path / "pymicro") in LocalRegistry(load({}, environ={})).describe()


async def test_only_old_temporary_files_are_removed(registry_folder: str) -> None:
    stale, young, busy = (Path(registry_folder, f".{number:032x}.new") for number in range(3))
    stale.touch()
    young.touch()
    age(stale, 3600)
    with held(busy, b""):
        age(busy, 3600)
        async with make(registry_folder) as registry:
            await registry.services()
        assert files(registry_folder) == sorted([young.name, busy.name])


async def test_files_of_others_are_left_alone_and_named_once(
    registry_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path(registry_folder, "notes.txt").write_text("mine")
    Path(registry_folder, "addon.node").write_text("mine")
    async with make(registry_folder) as registry:
        await registry.register(node())
        for _ in range(3):
            assert await registry.services() == ["greeter"]
    assert files(registry_folder) == ["addon.node", "notes.txt"]
    skipped = [record.getMessage() for record in caplog.records if "skipping" in record.getMessage()]
    assert len(skipped) == 2, skipped
    assert all(registry_folder in line for line in skipped)


def document(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"id": "x", "address": "127.0.0.1:9", "service": "greeter", "version": ""}
    fields.update(changes)
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


JUNK = {
    "empty": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "no object": b"[1, 2]",
    "null": b"null",
    "nested": b"[" * 100_000,
    "no id": document(id=...),
    "id is a number": document(id=7),
    "empty service": document(service=""),
    "half a character": document(service="\ud800"),
    "no port": document(address="127.0.0.1"),
    "port too large": document(address="127.0.0.1:65536"),
    "port 0": document(address="127.0.0.1:0"),
    "no host": document(address=":80"),
    "a line in the address": document(address="a\nb:80"),
    "address is a list": document(address=["127.0.0.1:9"]),
    "metadata is a list": document(metadata=[1]),
    "metadata holds a number": document(metadata={"a": 1}),
    "endpoints is an object": document(endpoints={"a": 1}),
    "an endpoint is null": document(endpoints=[None]),
    "a schema is text": document(endpoints=[{"name": "a", "request": "x"}]),
    "a field is null": document(endpoints=[{"name": "a", "request": {"name": "r", "values": [None]}}]),
    "too large": document(metadata={"a": "x" * LARGEST}),
}


async def test_a_node_whose_schema_is_nested_too_deep_is_found_without_it(registry_folder: str) -> None:
    # So deep that no parser minds: who wants to call the node does not read its schema.
    deep = b'{"values":[' * 100 + b"]}" * 100
    content = b'{"id":"x","address":"a:1","service":"s","endpoints":[{"name":"e","request":' + deep + b"}]}"
    with held(Path(registry_folder, name(7)), content):
        async with make(registry_folder) as registry:
            sets = registry.watch("s")
            (found,) = await first(sets, within=PATIENCE)
            await sets.aclose()
            assert (found.address, found.endpoints) == ("a:1", ())


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK.keys())
async def test_a_junk_file_is_skipped_and_told_once(
    registry_folder: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with held(Path(registry_folder, name(7)), content):
        async with make(registry_folder) as registry:
            await registry.register(node())
            for _ in range(3):
                assert await registry.services() == ["greeter"]
            sets = registry.watch("greeter")
            assert await first(sets, within=PATIENCE) == NodeSet.of([node()])
            await sets.aclose()
    skipped = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(skipped) == 1, skipped
    assert name(7) in skipped[0]


async def test_what_is_no_file_at_all_is_skipped(
    registry_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(registry_folder)
    (folder / name(1)).mkdir()
    (folder / name(2)).symlink_to("/etc/passwd")
    os.mkfifo(folder / name(3))
    expected = 3
    if os.geteuid() == 0:
        (folder / name(4)).write_bytes(document())
        os.chown(folder / name(4), SOMEBODY, SOMEBODY)
        expected = 4
    async with make(folder) as registry:
        await registry.register(node())
        for _ in range(3):
            assert await registry.services() == ["greeter"]
    skipped = [record.getMessage() for record in caplog.records if "skipping" in record.getMessage()]
    assert len(skipped) == expected, skipped
    assert len(files(folder)) == expected


async def test_unknown_and_missing_keys_are_no_fault(registry_folder: str) -> None:
    content = document(version=..., later={"a": [1]}, metadata=None, endpoints=None)
    with held(Path(registry_folder, name(7)), content):
        async with make(registry_folder) as registry:
            sets = registry.watch("greeter")
            assert await first(sets, within=PATIENCE) == NodeSet.of([Node("x", "127.0.0.1:9", "greeter")])
            await sets.aclose()


async def test_running_out_of_files_is_a_failure_and_no_empty_set(
    registry_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make(registry_folder) as registry:
        await registry.register(node())
        opened = os.open

        def exhausted(path: Any, *args: Any, **kwargs: Any) -> int:
            if str(path).endswith(".node"):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return opened(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", exhausted)
        with pytest.raises(RegistryError, match="Too many open files"):
            await registry.services()


async def test_a_node_too_large_to_be_read_is_not_written(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        with pytest.raises(RegistryError, match="less metadata"):
            await registry.register(node(metadata={"a": "x" * LARGEST}))
        with pytest.raises(RegistryError, match="surrogates not allowed"):
            await registry.register(node(service="\ud800"))
    assert files(registry_folder) == []


# Reading


async def test_all_watches_of_a_process_share_one_reader(registry_folder: str) -> None:
    def readers() -> int:
        return sum(task.get_name() == "pymicro registry local" for task in asyncio.all_tasks())

    async with make(registry_folder) as one, make(registry_folder) as two:
        assert readers() == 0  # nobody watches yet
        watches = [one.watch("greeter"), one.watch("other"), two.watch("greeter")]
        for sets in watches:
            await first(sets, within=PATIENCE)
        assert readers() == 1
        for sets in watches:
            await sets.aclose()
        assert readers() == 0


async def test_who_joins_during_a_reading_waits_for_the_next(
    registry_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scanning.Scanner.scan
    read, go_on = asyncio.Event(), asyncio.Event()

    async def held_up(scanner: scanning.Scanner) -> list[Node]:
        nodes = await scan(scanner)
        read.set()
        await go_on.wait()
        return nodes

    monkeypatch.setattr(scanning.Scanner, "scan", held_up)
    async with make(registry_folder) as registry:
        early = registry.watch("greeter")
        reading = asyncio.ensure_future(anext(early))
        await read.wait()
        await registry.register(node())
        late = registry.watch("greeter")
        joined = asyncio.ensure_future(anext(late))
        await asyncio.sleep(0)
        go_on.set()
        await reading
        assert await joined == NodeSet.of([node()])
        await early.aclose()
        await late.aclose()


async def test_reading_many_nodes_lets_others_run_and_reads_each_file_once(
    registry_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    load_node = scanning.load_node
    monkeypatch.setattr(scanning, "load_node", lambda data: read.append(data) or load_node(data))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with make(registry_folder) as registry:
        for number in range(400):
            await registry.register(node(number))
        task = asyncio.create_task(others())
        await registry.services()
        task.cancel()
        # 400 files take 10 ms at the very least, a slice of reading is 2 ms.
        assert turns >= 3
        assert len(read) == 400
        await registry.services()
        assert len(read) == 400
        await registry.register(node(7, version="2"))
        await registry.services()
        assert len(read) == 401


async def test_equal_endpoints_of_many_nodes_are_kept_once(registry_folder: str) -> None:
    endpoints = (Endpoint("Greeter.SayHello", metadata={"a": "b"}),)
    async with make(registry_folder) as registry:
        for number in range(3):
            await registry.register(node(number, endpoints=endpoints))
        sets = registry.watch("greeter")
        found = await first(sets, within=PATIENCE)
        assert len({id(one.endpoints) for one in found}) == 1
        assert found.nodes[0].endpoints == endpoints
        await sets.aclose()


async def test_an_unchanged_set_is_confirmed(registry_folder: str) -> None:
    async with make(registry_folder) as registry:
        sets = registry.watch("greeter")
        assert await first(sets, within=PATIENCE) == NodeSet()
        assert await first(sets, within=PATIENCE) == NodeSet()
        await sets.aclose()

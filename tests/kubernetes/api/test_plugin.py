"""Credential plug-ins: what they are told, what they print, and how they end."""

# ruff: noqa: ASYNC240, ASYNC110 - files in a temporary folder block nobody in a test, and do not tell of changes

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pymicro.kubernetes.api import plugin
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from tests.kubernetes.api.certificates import ADA, ADA_KEY, OLD_CA, old_server
from tests.kubernetes.api.logins import Clock, data, only, write
from tests.kubernetes.api.serving import serving

pytestmark = pytest.mark.usefixtures("no_files_left")

PLUGIN = """\
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "runs").open("a") as runs:
    runs.write(os.environ["KUBERNETES_EXEC_INFO"] + os.environ.get("REGION", "") + "\\n")
sys.stderr.write("x" * 200_000)
print((here / "answer").read_text())
"""


class Plugin:
    """A program that prints what it is told to, and remembers its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugin.py").write_text(PLUGIN)
        self.section: dict[str, Any] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(folder / "plugin.py")],
            "env": [{"name": "REGION", "value": "north"}],
            "interactiveMode": "Never",
        }

    def give(self, **status: Any) -> None:
        answer = {"apiVersion": self.section["apiVersion"], "kind": "ExecCredential", "status": status}
        (self.folder / "answer").write_text(json.dumps(answer))

    @property
    def runs(self) -> list[str]:
        return (self.folder / "runs").read_text().splitlines()

    def client(self, server: str, clock: Callable[[], float], **cluster: Any) -> KubeClient:
        path = write(self.folder, cluster={"server": server, **cluster}, user={"exec": self.section})
        return KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {}, clock=clock))


@pytest.fixture
def program(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def test_a_plug_in_gives_the_token_and_is_run_once(program: Plugin, clock: Clock) -> None:
    program.give(token="first")
    async with serving() as served, program.client(served.url, clock) as client:
        await asyncio.gather(*(client.request("GET", "/version") for _ in range(3)))
        assert served.tokens == ["Bearer first"] * 3
        (run,) = program.runs
        assert run.endswith("}north")
        info = json.loads(run.removesuffix("north"))
        assert (info["kind"], info["apiVersion"]) == ("ExecCredential", program.section["apiVersion"])


async def test_a_plug_in_is_run_again_before_its_token_runs_out(program: Plugin, clock: Clock) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=100)
    program.give(token="first", expirationTimestamp=expires.isoformat().replace("+00:00", "Z"))
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        program.give(token="second")
        clock.now += 60.0
        await client.request("GET", "/version")
        clock.now += 12.0
        await client.request("GET", "/version")
        assert served.tokens == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_plug_in_whose_tokens_are_stale_is_not_run_for_each_request(
    program: Plugin, clock: Clock
) -> None:
    program.give(token="stale", expirationTimestamp="2020-01-01T00:00:00Z")
    async with serving() as served, program.client(served.url, clock) as client:
        for _ in range(5):
            await client.request("GET", "/version")
        assert len(program.runs) == 1


async def test_a_plug_in_is_run_again_after_a_401(program: Plugin, clock: Clock) -> None:
    program.give(token="first")
    async with serving(only("second")) as served, program.client(served.url, clock) as client:
        await (await client.find()).login()
        program.give(token="second")
        assert await client.request("GET", "/version")
        assert len(program.runs) == 2


async def test_a_plug_in_may_give_a_certificate(program: Plugin, clock: Clock, tmp_path: Path) -> None:
    program.give(clientCertificateData=ADA, clientKeyData=ADA_KEY)
    authority = {"certificate-authority-data": data(OLD_CA)}
    async with serving(tls=old_server(tmp_path, clients=True)) as served:
        async with program.client(served.url, clock, **authority) as client:
            await client.request("GET", "/version")
        assert served.peers == ["ada"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("no JSON", "what it printed is no JSON"),
        ("[]", "what it printed is no ExecCredential"),
        ('{"apiVersion": "v0", "status": {"token": "x"}}', "what it printed is no ExecCredential"),
        (
            '{"apiVersion": "client.authentication.k8s.io/v1", "status": {"clientCertificateData": "x"}}',
            "neither a token nor a certificate with its key",
        ),
        (
            '{"apiVersion": "client.authentication.k8s.io/v1",'
            ' "status": {"token": "x", "expirationTimestamp": "soon"}}',
            "its expirationTimestamp 'soon' is no time",
        ),
    ],
)
async def test_a_plug_in_that_prints_something_else_is_named(
    program: Plugin, clock: Clock, answer: str, complaint: str
) -> None:
    (program.folder / "answer").write_text(answer)
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match=complaint) as caught:
            await client.request("GET", "/version")
    assert sys.executable in str(caught.value)
    assert caught.value.kind == "credentials"


async def test_a_plug_in_that_fails_is_named_with_what_it_said(program: Plugin, clock: Clock) -> None:
    (program.folder / "plugin.py").write_text("import sys; sys.exit('log in first')")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="it exited with 1: log in first"):
            await client.request("GET", "/version")
        program.section.update(command="no-such-plugin", installHint="install it")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="'no-such-plugin': there is no such program: install it"):
            await client.request("GET", "/version")
        program.section.pop("apiVersion")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="exec has apiVersion ''"):
            await client.request("GET", "/version")


async def test_a_plug_in_that_hangs_is_ended(
    program: Plugin, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_TIMEOUT", 1.0)
    script = f"import os, time; open({str(program.folder / 'pid')!r}, 'w').write(str(os.getpid()))"
    (program.folder / "plugin.py").write_text(f"{script}; time.sleep(600)")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="it did not end within 1 s"):
            await client.request("GET", "/version")
    with pytest.raises(ProcessLookupError):
        os.kill(int((program.folder / "pid").read_text()), 0)


def shell(program: Plugin, script: str) -> None:
    program.section.update(command="/bin/sh", args=["-c", f"cd {program.folder}; {script}"])


async def gone(path: Path) -> None:
    """Wait until the process whose id is in the file has ended."""
    pid = int(path.read_text())
    while True:
        try:
            # One that has ended, and that nobody has asked for yet, is still listed.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            os.kill(pid, 0)
        except OSError:
            return
        await asyncio.sleep(0.01)


async def test_what_a_plug_in_that_hangs_has_started_is_ended_with_it(
    program: Plugin, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_TIMEOUT", 0.5)
    # The one that hangs holds both of the pipes.
    shell(program, "sleep 600 & echo $! > child; echo sign in >&2; wait; true")
    before = asyncio.get_running_loop().time()
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match=r"it did not end within 0 s: sign in"):
            await client.request("GET", "/version")
    assert asyncio.get_running_loop().time() - before < 5
    await gone(program.folder / "child")


async def test_a_plug_in_that_nobody_waits_for_any_more_is_ended(program: Plugin, clock: Clock) -> None:
    shell(program, "sleep 600 & echo $! > child.new; mv child.new child; wait")
    async with program.client("http://127.0.0.1:1", clock) as client:
        request = asyncio.create_task(client.request("GET", "/version"))
        while not (program.folder / "child").exists():
            await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await gone(program.folder / "child")


async def test_a_plug_in_is_ended_with_what_it_started_even_if_nobody_waits_before_it_has_started(
    program: Plugin, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs before the loop knows: on a busy machine it may have a child by then."""
    shell(program, "sleep 600 & echo $! > child.new; mv child.new child; wait")
    loop = asyncio.get_running_loop()
    begin = loop.subprocess_exec
    runs = asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> Any:
        started = await begin(*arguments, **options)
        while not (program.folder / "child").exists():
            await asyncio.sleep(0.01)
        runs.set()
        await asyncio.sleep(0)
        return started

    monkeypatch.setattr(loop, "subprocess_exec", slow)
    async with program.client("http://127.0.0.1:1", clock) as client:
        request = asyncio.create_task(client.request("GET", "/version"))
        await runs.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await gone(program.folder / "child")


async def test_a_plug_in_may_leave_a_helper_behind(program: Plugin, clock: Clock) -> None:
    program.give(token="first")
    shell(program, "sleep 600 >&2 & echo $! > child; cat answer")
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        assert served.tokens == ["Bearer first"]
    child = int((program.folder / "child").read_text())
    os.kill(child, signal.SIGKILL)


async def test_what_a_plug_in_says_to_people_is_in_the_log_while_it_waits(
    program: Plugin, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    program.give(token="signed in")
    shell(program, "printf 'open https://id.example\\nand type \\033[1mABCD\\n' >&2; cat go; cat answer")
    os.mkfifo(program.folder / "go")
    async with serving() as served, program.client(served.url, clock) as client:
        request = asyncio.create_task(client.request("GET", "/version"))
        while "ABCD" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not request.done()
        assert [record.getMessage() for record in caplog.records] == [
            "the credential plug-in '/bin/sh' says: open https://id.example",
            "the credential plug-in '/bin/sh' says: and type \\x1b[1mABCD",
        ]
        await asyncio.to_thread((program.folder / "go").write_text, "")
        await request
        assert served.tokens == ["Bearer signed in"]


async def test_a_failure_is_shared_for_some_seconds(program: Plugin, clock: Clock) -> None:
    shell(program, "echo run >> runs; exit 1")
    async with program.client("http://127.0.0.1:1", clock) as client:

        async def ask() -> None:
            with pytest.raises(KubeError, match="it exited with 1"):
                await client.request("GET", "/version")

        await asyncio.gather(*(ask() for _ in range(20)))
        await ask()
        assert len(program.runs) == 1
        clock.now += 5.0
        await ask()
        assert len(program.runs) == 2


async def test_a_plug_in_that_fails_for_a_changed_file_is_not_run_at_each_look_at_it(
    program: Plugin, clock: Clock
) -> None:
    program.give(token="first")
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        (program.folder / "answer").write_text("broken")
        # Somebody has made another context current, say.
        (program.folder / "config").write_text((program.folder / "config").read_text() + "\n")
        for _ in range(4):
            clock.now += 1.0
            await client.request("GET", "/version")
        assert len(program.runs) == 2
        program.give(token="second")
        clock.now += 5.0
        await client.request("GET", "/version")
        assert served.tokens == [*["Bearer first"] * 5, "Bearer second"]


async def test_a_token_that_is_always_refused_is_not_got_anew_for_each_request(
    program: Plugin, clock: Clock
) -> None:
    program.give(token="stale")
    async with serving(only("fresh")) as served, program.client(served.url, clock) as client:
        for _ in range(10):
            with pytest.raises(KubeError) as caught:
                await client.request("GET", "/version")
            assert caught.value.status == 401
        # When it was first needed, and once after it was refused.
        assert len(program.runs) == 2
        program.give(token="fresh")
        clock.now += 5.0
        assert await client.request("GET", "/version")


async def test_a_plug_in_is_told_of_the_cluster_if_it_asks(
    program: Plugin, clock: Clock, tmp_path: Path
) -> None:
    program.give(token="first")
    program.section["provideClusterInfo"] = True
    authority = {"certificate-authority-data": data(OLD_CA)}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "shop"}}
    async with serving(tls=old_server(tmp_path)) as served:
        async with program.client(served.url, clock, **authority, extensions=[extension]) as client:
            await client.request("GET", "/version")
        (run,) = program.runs
        assert json.loads(run.removesuffix("north"))["spec"] == {
            "interactive": False,
            "cluster": {"server": served.url, **authority, "config": {"audience": "shop"}},
        }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"interactiveMode": "Always"},
            "has interactiveMode Always, and pymicro gives no",
        ),
        ({"interactiveMode": None}, "has interactiveMode ''; there are Never, IfAvailable, Always"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "v1alpha1'; there are"),
        ({"command": ""}, "names no command"),
        ({"args": [1]}, "has something in args that is no text"),
        ({"env": [{"value": "x"}]}, "has an entry of env without a name"),
    ],
)
async def test_a_section_that_can_never_work_is_an_error_that_says_why(
    program: Plugin, clock: Clock, change: dict[str, Any], complaint: str
) -> None:
    program.section.update(change)
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/version")
    assert "user 'ada', exec" in str(caught.value)
    assert complaint in str(caught.value)


async def test_keys_that_are_renewed_do_not_pile_up(program: Plugin, clock: Clock, tmp_path: Path) -> None:
    program.give(clientCertificateData=ADA, clientKeyData=ADA_KEY, expirationTimestamp="2020-01-01T00:00:00Z")
    authority = {"certificate-authority-data": data(OLD_CA)}
    async with serving(tls=old_server(tmp_path, clients=True)) as served:
        async with program.client(served.url, clock, **authority) as client:
            for _ in range(3):
                await client.request("GET", "/version")
                clock.now += 60.0
                # `no_files_left` looks at the end; this is in between.
                assert list(Path(tempfile.gettempdir()).iterdir()) == []
        assert served.peers == ["ada"] * 3
        assert len(program.runs) == 3


async def test_a_relative_plug_in_is_looked_for_beside_its_kubeconfig(
    program: Plugin, clock: Clock, tmp_path: Path
) -> None:
    script = tmp_path / "bin" / "plugin"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nprint(open({str(tmp_path / 'answer')!r}).read())\n")
    script.chmod(0o700)
    program.section.update(command="./bin/plugin", args=[])
    program.give(token="beside")
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        assert served.tokens == ["Bearer beside"]


async def test_a_plug_in_that_fails_later_is_an_error_once_its_token_has_run_out(
    program: Plugin, clock: Clock
) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=100)
    program.give(token="first", expirationTimestamp=expires.isoformat())
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        (program.folder / "answer").write_text("broken")
        clock.now += 200.0
        with pytest.raises(KubeError, match="is no JSON"):
            await client.request("GET", "/version")

"""Credential plug-ins: programs that a kubeconfig names and that print a token or a certificate.

Kubernetes: "client-go credential plugins".
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.kubeconfig_files import Section

__all__ = ["Credential", "check_plugin", "run_plugin"]

# Apart from the others: a command that is quiet must still show what a person is asked.
log = logger("pymicro.kube.plugin")

# A plug-in may open a browser and wait for its user; one that hangs must end.
_TIMEOUT = 60.0
# Seconds for one that was killed to be gone.
_LAST = 1.0
# Bytes of what it prints; a token with its certificates is a few thousand.
_LONGEST = 1 << 20

# We run the plug-in again this long before its answer runs out, so that no token ends while a
# request travels; but we leave at least the second time between two runs.
_MARGIN = 30.0
_SHORTEST = 10.0

_V1, _V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
_MODES = ("Never", "IfAvailable", "Always")


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plug-in gave.

    Attributes:
        token: A bearer token; empty if it gave a certificate.
        certificate: PEM; empty if the plug-in gave a token only.
        key: PEM, for the certificate.
        lifetime: For how many seconds it is good; None if the plug-in does not say.
    """

    token: str
    certificate: str
    key: str
    lifetime: float | None


def check_plugin(section: Section) -> None:
    """Check a kubeconfig user's `exec` section.

    Raises:
        ConfigError: It can never work; the text says why.
    """
    if not section.text("command"):
        raise section.error("names no command")
    version, mode = section.text("apiVersion"), section.text("interactiveMode")
    if version not in (_V1, _V1BETA1):
        raise section.error(f"has apiVersion {excerpt(version)}; there are {_V1} and {_V1BETA1}")
    if mode not in _MODES and (mode or version == _V1):
        raise section.error(f"has interactiveMode {excerpt(mode)}; there are {', '.join(_MODES)}")
    if mode == "Always":
        raise section.error("has interactiveMode Always, and pymicro gives no plug-in a terminal")
    section.texts("args")
    _variables(section)


def _variables(section: Section) -> dict[str, str]:
    """The section's own variables."""
    found = {}
    for entry in section.items("env"):
        pair = Section(f"{section.what}, env", entry if isinstance(entry, dict) else {})
        if not pair.text("name"):
            raise section.error("has an entry of env without a name")
        found[pair.text("name")] = pair.text("value")
    return found


async def run_plugin(
    section: Section, environ: Mapping[str, str], cluster: Callable[[], Mapping[str, object]]
) -> Credential:
    """Run the program of a kubeconfig user's `exec` section.

    What it writes to its standard error goes to the log as it comes: that is where plug-ins ask
    people to sign in.

    Args:
        section: The section, checked.
        environ: What it is run in, with the section's own variables.
        cluster: Describes the cluster, for plug-ins that want to know.

    Raises:
        KubeError: It cannot be started, fails, takes over a minute or prints something else.
    """
    name = section.text("command")
    command = shutil.which(name, path=environ.get("PATH"))
    if command is None:
        hint = section.text("installHint").strip()
        raise _failure(name, f"there is no such program{': ' + shortened(hint, 500) if hint else ''}")
    # We have no terminal to give: nobody may sit at a service's.
    spec: dict[str, object] = {"interactive": False}
    if section.flag("provideClusterInfo"):
        spec["cluster"] = cluster()
    version = section.text("apiVersion")
    asked = {"kind": "ExecCredential", "apiVersion": version, "spec": spec}
    output = _Output(name)
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            lambda: output,
            command,
            *section.texts("args"),
            stdin=asyncio.subprocess.DEVNULL,
            env={**environ, **_variables(section), "KUBERNETES_EXEC_INFO": json.dumps(asked)},
            # A group of its own, so that all of it can be ended.
            start_new_session=True,
        )
    )
    try:
        # Shielded: cancelled in there, asyncio would end the program alone, and not what it has started.
        transport, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_end_unwanted)
        raise
    except (OSError, ValueError) as exc:
        raise _failure(name, f"it cannot be started: {shortened(str(exc), 500)}") from exc
    left = {output.exited, output.read}
    try:
        # Its standard error may stay open, in a program that it has left behind.
        _, left = await asyncio.wait(left, timeout=_TIMEOUT)
        if left:
            raise _failure(name, f"it did not end within {_TIMEOUT:.0f} s{output.last_words()}")
        code = transport.get_returncode()
    finally:
        try:
            if left:
                log.warning("the credential plug-in %s has not ended, and is ended now", excerpt(name))
                _end(transport)
                await asyncio.wait([output.exited], timeout=_LAST)
        finally:
            transport.close()
    if code:
        raise _failure(name, f"it exited with {code}{output.last_words()}")
    return _credential(name, version, bytes(output.printed))


def _end(transport: asyncio.SubprocessTransport) -> None:
    """End the program, and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), signal.SIGKILL)


def _end_unwanted(starting: asyncio.Future[tuple[asyncio.SubprocessTransport, _Output]]) -> None:
    """Nobody waits any more for a program that has started only now."""
    if not starting.cancelled() and starting.exception() is None:
        transport, _ = starting.result()
        _end(transport)
        transport.close()


class _Output(asyncio.SubprocessProtocol):
    """What a plug-in prints.

    Attributes:
        printed: Its standard output so far.
        read: Done when that is at its end.
        exited: Done when the program has ended.
    """

    def __init__(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.printed = bytearray()
        self.read: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self._name = name
        self._words = ""
        self._line = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            if len(self.printed) <= _LONGEST:
                self.printed += data
            return
        *lines, rest = (self._line + data).split(b"\n")
        # One that never ends its line is shown all the same.
        self._line, more = (rest, []) if len(rest) < 1000 else (b"", [rest])
        for line in (*lines, *more):
            self._say(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and not self.read.done():
            self.read.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if text:
            text = text if text.isprintable() else repr(text)[1:-1]
            log.warning("the credential plug-in %s says: %s", excerpt(self._name), shortened(text, 1000))
            self._words = f"{self._words} {text}".strip()[-500:]

    def last_words(self) -> str:
        """`: ` and the end of what it complained of; empty if it did not."""
        self._say(self._line)
        self._line = b""
        return f": {self._words}" if self._words else ""


def _credential(name: str, version: str, printed: bytes) -> Credential:
    try:
        answer = json.loads(printed)
    except (ValueError, RecursionError) as exc:
        raise _failure(name, "what it printed is no JSON") from exc
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or answer.get("apiVersion") != version:
        raise _failure(name, f"what it printed is no ExecCredential of {version}")
    credential = Credential(
        token=_text(status, "token"),
        certificate=_text(status, "clientCertificateData"),
        key=_text(status, "clientKeyData"),
        lifetime=_lifetime(name, status.get("expirationTimestamp")),
    )
    if bool(credential.certificate) != bool(credential.key) or not (credential.token or credential.key):
        raise _failure(name, "it printed neither a token nor a certificate with its key")
    return credential


def _text(status: Mapping[str, Any], key: str) -> str:
    value = status.get(key)
    return value if isinstance(value, str) else ""


def _lifetime(name: str, expires: object) -> float | None:
    if expires is None:
        return None
    try:
        moment = datetime.fromisoformat(str(expires)).timestamp()
    except (ValueError, OverflowError) as exc:
        raise _failure(name, f"its expirationTimestamp {excerpt(expires, 80)} is no time") from exc
    return max(moment - time.time() - _MARGIN, _SHORTEST)


def _failure(name: str, what: str) -> KubeError:
    return KubeError(f"the kubeconfig's credential plug-in {excerpt(name)}: {what}", kind="credentials")

"""Credential plug-ins: programs that a kubeconfig names and that print a token or a certificate."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.login import library

__all__ = ["Credential", "run_plugin"]

# A plug-in may open a browser and wait for its user; one that hangs must end.
_TIMEOUT = 60.0

# We run the plug-in again this long before its answer runs out, so that no token ends while a
# request travels; but we leave at least the second time between two runs.
_MARGIN = 30.0
_SHORTEST = 10.0


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


async def run_plugin(section: Mapping[str, Any], base: str) -> Credential:
    """Run the program of a kubeconfig user's `exec` section.

    Args:
        section: The section as it stands in the file.
        base: The file's folder: a relative command with a slash is looked for there.

    Raises:
        KubeError: It cannot be started, fails, takes over a minute or prints something else.
    """
    command = str(section.get("command", ""))
    if os.sep in command:
        section = {**section, "command": os.path.join(base, command)}
    try:
        async with asyncio.timeout(_TIMEOUT):
            status = await _run(section)
    except TimeoutError:
        raise _failure(command, f"it did not end within {_TIMEOUT:.0f} s") from None
    except FileNotFoundError as exc:
        hint = str(section.get("installHint") or "").strip()
        raise _failure(command, f"there is no such program{': ' + hint if hint else ''}") from exc
    except KubeError:
        raise
    except Exception as exc:
        # kubernetes_asyncio raises for a section it cannot use, the system for a program it cannot start.
        raise _failure(command, f"{exc}") from exc
    credential = Credential(
        token=str(status.get("token") or ""),
        certificate=str(status.get("clientCertificateData") or ""),
        key=str(status.get("clientKeyData") or ""),
        lifetime=_lifetime(command, status.get("expirationTimestamp")),
    )
    if not credential.token and not (credential.certificate and credential.key):
        raise _failure(command, "it printed neither a token nor a certificate with its key")
    return credential


async def _run(section: Mapping[str, Any]) -> Mapping[str, Any]:
    config = (await library()).config
    node = config.kube_config.ConfigNode("exec", dict(section))
    # The library checks the section and makes arguments and environment. Its own `run` would
    # leave a hanging program behind, and would wait for ever for one that complains at length.
    provider = config.exec_provider.ExecProvider(node)
    command = provider.args[0]
    asked = {
        "apiVersion": provider.api_version,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    process = await asyncio.create_subprocess_exec(
        *(str(argument) for argument in provider.args),
        env={**provider.env, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = complaints.decode(errors="replace").strip()[-500:]
        raise _failure(command, f"it exited with {process.returncode}{': ' + text if text else ''}")
    try:
        answer = json.loads(printed)
    except ValueError as exc:
        raise _failure(command, "what it printed is no JSON") from exc
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or answer.get("apiVersion") != provider.api_version:
        raise _failure(command, f"what it printed is no ExecCredential of {provider.api_version}")
    return status


def _lifetime(command: str, expires: object) -> float | None:
    if expires is None:
        return None
    try:
        moment = datetime.fromisoformat(str(expires)).timestamp()
    except ValueError as exc:
        raise _failure(command, f"its expirationTimestamp {expires!r} is no time") from exc
    return max(moment - time.time() - _MARGIN, _SHORTEST)


def _failure(command: str, what: str) -> KubeError:
    return KubeError(f"the kubeconfig's credential plug-in {command!r}: {what}", kind="credentials")

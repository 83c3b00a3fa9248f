"""Call credentials of grpc's: what they are asked for each call, and what becomes of the answers.

A plugin may block, as those do that fetch a token, so it is asked in a thread. It answers from any
thread, at once or later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.printable import excerpt
from pymicro.rpc.grpcio import metadata_plugins
from pymicro.rpc.wire.metadata import Pair, checked

if TYPE_CHECKING:
    from pymicro.calling.connections.fast.arguments import Arguments
    from pymicro.calling.connections.fast.call import FastCall

__all__ = ["ask"]

_UNAVAILABLE, _UNAUTHENTICATED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
# grpc-core's words.
_NOT_SECURE = "Established channel does not have a sufficient security level to transfer call credential."


def ask(
    credentials: grpc.CallCredentials,
    call: FastCall,
    arguments: Arguments,
    path: str,
    go_on: Callable[[FastCall], None],
) -> None:
    """Ask for a call's metadata, and go on with the call when it is there. It never goes out without.

    Args:
        credentials: Its own.
        call: It has not begun.
        arguments: Those of its connection.
        path: The method's.
        go_on: Starts it.
    """
    if arguments.context is None:
        call.fail(_UNAUTHENTICATED, _NOT_SECURE)
        return
    plugins = metadata_plugins(credentials)
    if plugins is None:
        kind = type(getattr(credentials, "_credentials", credentials)).__name__
        call.fail(
            _UNAUTHENTICATED, f"transport fast does not know call credentials of the kind {excerpt(kind)}"
        )
        return
    service, _, method = path.rpartition("/")
    # The name that the node has to prove, as in grpc-core.
    host = arguments.server_name or arguments.authority
    url = f"https://{host.removesuffix(':443')}{service}"
    loop = asyncio.get_running_loop()
    answers: dict[int, tuple[Pair, ...]] = {}

    def answered(place: int, metadata: Any, code: int, details: Any) -> None:
        if call.code is not None or place in answers:
            return
        if code != grpc.StatusCode.OK.value[0]:
            text = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)
            call.fail(_UNAVAILABLE, f"Getting metadata from plugin failed with error: {text}")
            return
        try:
            answers[place] = checked(metadata or ())
        except (ValueError, TypeError) as exc:
            call.fail(_UNAVAILABLE, f"Illegal metadata: {exc}")
            return
        if len(answers) == len(plugins):
            call.add_metadata([pair for place in sorted(answers) for pair in answers[place]])
            go_on(call)

    for place, plugin in enumerate(plugins):
        loop.run_in_executor(None, _asked, plugin, url, method, place, loop, answered)


def _asked(
    plugin: Callable[..., None],
    url: str,
    method: str,
    place: int,
    loop: asyncio.AbstractEventLoop,
    answered: Callable[[int, Any, int, Any], None],
) -> None:
    """Ask one plugin; in a thread."""

    def callback(metadata: Any, code: int, details: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the call has ended
            loop.call_soon_threadsafe(answered, place, metadata, code, details)

    try:
        copy_context().run(plugin, url, method, callback)
    except Exception as exc:
        callback(None, grpc.StatusCode.INTERNAL.value[0], str(exc))

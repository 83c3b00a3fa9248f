"""Tokens and API keys that calls carry: sent over encrypted connections, and over no other ones.

Which node a call takes, and whether the connection to it is encrypted, is known when an attempt starts.
So an interceptor only says what is to be sent, as call credentials, and the attempt attaches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.errors import ConfigError
from pymicro.identity.token_file import BadToken, TokenFile
from pymicro.rpc.interceptors import Proceed
from pymicro.rpc.status import Unauthenticated
from pymicro.rpc.wire.metadata import Pair

if TYPE_CHECKING:
    from pymicro.calling.call.outgoing import OutgoingCall

__all__ = ["SentSecret", "SentToken", "api_key", "attached", "bearer_token"]


class SentSecret(grpc.CallCredentials):
    """A pair of metadata that one call carries; grpc's call credentials of a form of our own.

    Args:
        pair: The pair.
        what: What it is, and where from, for messages.
        plain_text: Whether it may be sent in plain text.
        besides: Other call credentials of the call.
    """

    def __init__(
        self, pair: Pair, what: str, plain_text: bool, besides: grpc.CallCredentials | None = None
    ) -> None:
        self._pair = pair
        self._what = what
        self._plain_text = plain_text
        self.besides = besides

    def __repr__(self) -> str:
        return f"<{self._what}>"

    @property
    def _credentials(self) -> Any:
        """grpc-core's form, for an interceptor that puts it together with others of grpc's."""
        made: Any = grpc.metadata_call_credentials(self._answer)  # type: ignore[arg-type]
        return made._credentials

    def _answer(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback((self._pair,), None)

    def attach(self, metadata: Iterable[Pair] | None, secured: bool, where: str) -> tuple[Pair, ...]:
        """The metadata of an attempt with the pair, in the place of others of its name; see `attached`.

        Raises:
            Unauthenticated: The connection is plain text, and the pair is not for others' eyes.
        """
        if not (secured or self._plain_text):
            raise _in_the_clear(f"the {self._what} is", where, "; plain_text=True sends it all the same")
        name = self._pair[0]
        return (*(pair for pair in metadata or () if pair[0] != name), self._pair)


def attached(
    credentials: grpc.CallCredentials, metadata: Any, secured: bool, where: str
) -> tuple[Any, grpc.CallCredentials | None]:
    """An attempt's metadata with what its call credentials attach, and those that the transport must ask.

    Args:
        credentials: Of the call; ours, grpc's, or ours beside grpc's.
        metadata: What goes along.
        secured: Whether the connection is encrypted.
        where: Whom it leads to.

    Raises:
        Unauthenticated: It is not, and the credentials are not for others' eyes. (grpc's threaded API ends
            such a call so; grpc.aio raises a UsageError.)
    """
    left: grpc.CallCredentials | None = credentials
    while isinstance(left, SentSecret):
        metadata = left.attach(metadata, secured, where)
        left = left.besides
    if left is not None and not secured:
        raise _in_the_clear("call credentials are", where)
    return metadata, left


def _in_the_clear(what: str, where: str, more: str = "") -> Unauthenticated:
    return Unauthenticated(
        f"{what} not sent to {where}: the connection is plain text, and others could read it. "
        f"Set client_tls=require, with tls_ca{more}",
        from_peer=False,
    )


class SentToken:
    """A client's interceptor: it gives each call a token from a file.

    Args:
        file: Which file.
        kind: What is in it, for messages.
        key: Of the metadata.
        form: How the value is written, with `{}` for the token.
        plain_text: Whether it may be sent in plain text.
    """

    for_clients = True

    def __init__(self, file: str, kind: str, key: str, form: str, plain_text: bool) -> None:
        self._file = TokenFile(file, kind)
        self._what = f"{kind} in {file}"
        self._key = key
        self._form = form
        self._plain_text = plain_text

    def __repr__(self) -> str:
        return f"<{self._what}>"

    async def __call__(self, call: OutgoingCall, proceed: Proceed) -> Any:
        """Give the call its token, and go on.

        Raises:
            Unauthenticated: There is none.
        """
        try:
            text = await self._file.get()
        except BadToken as exc:
            raise Unauthenticated(f"there is no {self._what} to send: {exc}", from_peer=False) from None
        pair = self._key, self._form.format(text)
        call.credentials = SentSecret(pair, self._what, self._plain_text, call.credentials)
        return await proceed()


def bearer_token(file: str | PathLike[str], *, plain_text: bool = False) -> SentToken:
    """Send the token in this file with each call, as `authorization: Bearer …`.

        client = Client(interceptors=[bearer_token("/var/run/secrets/tokens/orders")])

    It goes into the `interceptors` of a `Client` or a channel, or the `client_interceptors` of a `Service`.
    The file is read again when it changes, as Kubernetes' projected tokens do. Over a connection that is
    not encrypted nothing is sent, and the call ends UNAUTHENTICATED.

    Args:
        file: The file.
        plain_text: Send it over connections that are not encrypted too.

    Raises:
        ConfigError: `file` is no path.
    """
    return SentToken(_path(file), "token", "authorization", "Bearer {}", bool(plain_text))


def api_key(file: str | PathLike[str], *, plain_text: bool = False) -> SentToken:
    """Send the API key in this file with each call, as `x-api-key`; see `bearer_token`.

    Raises:
        ConfigError: `file` is no path.
    """
    return SentToken(_path(file), "API key", "x-api-key", "{}", bool(plain_text))


def _path(file: str | PathLike[str]) -> str:
    try:
        path = fspath(file)
    except TypeError:
        path = ""
    if not path or not isinstance(path, str):
        what = f"of type {type(file).__name__}" if file != "" else "empty"
        raise ConfigError(f"file= is no path of a file: it is {what}")
    if path.startswith("eyJ") and path.count(".") == 2 and "/" not in path:
        # It would be in the message that no such file is there.
        raise ConfigError("file= is the path of a file with a token, and a token was given")
    return path

"""Who makes a call: what its connection has proved, and what the call itself carries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.identity.accepted import Accepted, AcceptedKeys, AcceptedTokens
from pymicro.identity.bearer_tokens import BearerTokens
from pymicro.identity.caller import KnownCaller, caller_of, is_secured
from pymicro.identity.key_file import KeyFile
from pymicro.identity.verdict import Proven, Rejected, Verdict

__all__ = ["API_KEY", "AUTHORIZATION", "Authentication", "Unsettled", "Who"]

# Keys of metadata.
AUTHORIZATION, API_KEY = "authorization", "x-api-key"
_BEARER = "bearer "

# A caller; nobody, that is, nothing was shown; or what was shown is not good.
Who = KnownCaller | Rejected | None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A token that has to be checked before anybody knows who calls.

    Attributes:
        token: The token.
        host: Where it comes from.
        certificate: What the connection has proved.
    """

    token: str = field(repr=False)
    host: str
    certificate: KnownCaller | None


class Authentication:
    """Finds out who makes a call.

    Args:
        accepted: What callers may show.

    Attributes:
        tokens: What checks tokens; None if none are taken.

    Raises:
        ConfigError: They do not go together.
        PluginError: What checks tokens is not installed.
    """

    def __init__(self, accepted: Sequence[Accepted]) -> None:
        tokens = [one for one in accepted if isinstance(one, AcceptedTokens)]
        keys = [one for one in accepted if isinstance(one, AcceptedKeys)]
        if len(keys) > 1:
            raise ConfigError("api_keys is there twice: one file has all keys")
        if len({one.plain_text for one in tokens}) > 1:
            raise ConfigError(
                "tokens come over the same connections: plain_text= is the same for all issuers"
            )
        self.tokens = BearerTokens(tokens) if tokens else None
        self._keys = KeyFile(keys[0].path) if keys else None
        self._plain_tokens = bool(tokens) and tokens[0].plain_text
        self._plain_keys = bool(keys) and keys[0].plain_text
        self._stack = AsyncExitStack()
        wanted = []
        if tokens:
            wanted.append("a token (metadata `authorization: Bearer …`)")
        if keys:
            wanted.append(f"an API key (metadata `{API_KEY}`)")
        self.wanted = " or ".join(wanted)

    @property
    def plain_text(self) -> bool:
        """Whether anything of it is taken in plain text."""
        return self._plain_tokens or self._plain_keys

    async def open(self) -> None:
        """Read what it needs, and follow it.

        Raises:
            ConfigError: A file cannot be used.
        """
        async with AsyncExitStack() as stack:
            for one in (self.tokens, self._keys):
                if one is not None:
                    await stack.enter_async_context(one)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Follow nothing any more. May be called again."""
        await self._stack.aclose()

    def at_once(self, context: Any) -> Who | Unsettled:
        """Who makes a call, if that is known without a wait.

        Args:
            context: Of the call: it tells of its connection and its metadata.
        """
        facts = context.auth_context()
        certificate = caller_of(facts)
        token = key = None
        for name, value in context.invocation_metadata() or ():
            if name == AUTHORIZATION and self.tokens is not None:
                if isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
                    if token is not None:
                        return Rejected("there are two of them")
                    token = value[len(_BEARER) :].strip()
            elif name == API_KEY and self._keys is not None:
                if key is not None or not isinstance(value, str):
                    return Rejected("there are two of them")
                key = value
        if token is None and key is None:
            return certificate
        if token is not None and key is not None:
            return Rejected("there is an API key beside it")
        if not (is_secured(facts) or (self._plain_tokens if token is not None else self._plain_keys)):
            # It is not looked at: whoever hears it on the way must not hear either whether it is good.
            return Rejected("it came in plain text, where others can read it: it must only be sent over TLS")
        if token is None:
            assert self._keys is not None
            assert key is not None
            return _together(certificate, self._keys.known(key))
        assert self.tokens is not None
        known = self.tokens.known(token)
        if known is None:
            return Unsettled(token, _host(context.peer()), certificate)
        return _together(certificate, known)

    async def settled(self, unsettled: Unsettled) -> Who:
        """Who makes a call whose token has to be checked."""
        assert self.tokens is not None
        return _together(unsettled.certificate, await self.tokens.ask(unsettled.token, unsettled.host))


def _together(certificate: KnownCaller | None, verdict: Verdict) -> Who:
    """What the connection and the call have proved together."""
    if not isinstance(verdict, Proven):
        return verdict
    if certificate is None:
        return verdict.caller
    return replace(certificate, principal=verdict.caller.principal, claims=verdict.caller.claims)


def _host(peer: str) -> str:
    """The host in `ipv4:10.0.0.1:50312`."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer

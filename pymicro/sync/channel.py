"""A service's channel as grpc's synchronous stubs know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from pymicro.base.copies import NotCopied
from pymicro.sync.multicallables import SyncStreamStream, SyncStreamUnary, SyncUnaryStream, SyncUnaryUnary

if TYPE_CHECKING:
    from pymicro.calling.channel import Channel
    from pymicro.sync.thread import LoopThread, LoopUser

__all__ = ["SyncChannel"]

_Watcher = Callable[[grpc.ChannelConnectivity], None]


class SyncChannel(NotCopied, grpc.Channel):
    """Calls to one service, each to a node of its own, for stubs that await nothing.

    Made by `pymicro.sync.Client.channel`. Making one opens nothing. It may be used from many
    threads. `close()` ends this channel object's calls only; the client keeps the connections for
    others and closes them when it is closed.
    """

    def __init__(self, client: LoopUser, channel: Channel) -> None:
        self._client = client
        self._channel = channel
        self._closed = False
        self._watchers: list[tuple[_Watcher, asyncio.Task[None]]] = []

    @property
    def thread(self) -> LoopThread | None:
        """Where its calls run; None unless the client is open."""
        return self._client.thread

    def opened(self) -> LoopThread:
        """Where its calls run; opens the client if this is the first call.

        Raises:
            ValueError: The channel is closed, as grpc has it.
            PymicroError: The client is closed, or the process was forked after its first use.
        """
        if self._closed:
            raise ValueError(f"the channel to {self._channel.service} is closed")
        return self._client.opened()

    def close(self) -> None:
        """End this channel object's calls; may be called again."""
        if self._closed:
            return
        self._closed = True
        thread = self._client.thread
        if thread is not None:

            async def close() -> None:
                for _, watching in self._watchers:
                    watching.cancel()
                await self._channel.close()

            thread.run(close, f"the end of the channel to {self._channel.service}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def subscribe(self, callback: _Watcher, try_to_connect: bool | None = False) -> None:
        """Call `callback` with the state of the best node, now and after each change.

        It is called in a thread in which it may block. The service's nodes are followed from now on.
        """
        thread, service = self.opened(), self._channel.service

        async def watch() -> None:
            while True:
                state = self._channel.get_state(try_to_connect=bool(try_to_connect))
                thread.call_back(lambda state=state: tell(state), f"the channel to {service}")  # type: ignore[misc]
                await self._channel.wait_for_state_change(state)

        def tell(state: grpc.ChannelConnectivity) -> None:
            if any(known == callback for known, _ in self._watchers):
                callback(state)

        async def begin() -> None:
            self._watchers.append((callback, thread.start(watch())))

        thread.run(begin, f"a question to the channel to {service}")

    def unsubscribe(self, callback: _Watcher) -> None:
        """Do not call this any more."""
        thread = self._client.thread
        for entry in [entry for entry in self._watchers if entry[0] == callback]:
            self._watchers.remove(entry)
            if thread is not None:
                thread.post(entry[1].cancel)

    # Generated stubs of grpcio-tools 1.64 and later pass _registered_method.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> SyncUnaryUnary:
        """For generated stubs."""
        made = self._channel.unary_unary
        return SyncUnaryUnary(
            self, *self._both(made, method, request_serializer, response_deserializer, _registered_method)
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> SyncUnaryStream:
        """For generated stubs."""
        made = self._channel.unary_stream
        return SyncUnaryStream(
            self, *self._both(made, method, request_serializer, response_deserializer, _registered_method)
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> SyncStreamUnary:
        """For generated stubs."""
        made = self._channel.stream_unary
        return SyncStreamUnary(
            self, *self._both(made, method, request_serializer, response_deserializer, _registered_method)
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> SyncStreamStream:
        """For generated stubs."""
        made = self._channel.stream_stream
        return SyncStreamStream(
            self, *self._both(made, method, request_serializer, response_deserializer, _registered_method)
        )

    def _both(
        self,
        make: Callable[..., Any],
        method: str,
        serializer: Callable[..., Any] | None,
        deserializer: Callable[..., Any] | None,
        registered: bool | None,
    ) -> tuple[Any, Any]:
        """The asynchronous multicallable, in messages, and with requests in bytes."""
        whole = make(method, serializer, deserializer, registered)
        plain = self._channel.layers is None
        return whole, make(method, None, deserializer, registered) if plain else None

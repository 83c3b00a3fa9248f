"""One method on one channel: what all its calls have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymicro.calling.call.channel_state import ChannelState
    from pymicro.calling.connections.method import Method

__all__ = ["Called"]


class Called:
    """One method on one channel.

    Args:
        channel: Our channel, which knows the nodes.
        method: The method as a stub asks for it.

    Attributes:
        callee: Service and method, for errors.
        streams: Whether there is a stream of requests.
        one_response: Whether there is one response, and no stream of them.
    """

    def __init__(self, channel: ChannelState, method: Method) -> None:
        self.channel = channel
        self.method = method
        self.path = method.path
        self.shape = method.shape
        self.callee = f"{channel.service}{method.path}"
        self.streams = method.shape.request_streaming
        self.one_response = not method.shape.response_streaming

    @property
    def service(self) -> str:
        """The name that is looked up."""
        return self.channel.service

    @property
    def idempotent(self) -> bool:
        """Whether the method may run twice: the channel or its proto says so."""
        return self.channel.marks(self.path) or self.method.idempotent

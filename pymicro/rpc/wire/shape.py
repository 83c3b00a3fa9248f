"""The four shapes a call can have."""

from __future__ import annotations

from enum import Enum

__all__ = ["Shape"]


class Shape(Enum):
    """Which sides stream; the value is grpc's own word for it."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"

    request_streaming: bool
    response_streaming: bool

    def __init__(self, word: str) -> None:
        request, _, response = word.partition("_")
        self.request_streaming = request == "stream"
        self.response_streaming = response == "stream"

    @classmethod
    def of(cls, request_streaming: bool, response_streaming: bool) -> Shape:
        """The shape given by the proto's two `stream` keywords."""
        request = "stream" if request_streaming else "unary"
        response = "stream" if response_streaming else "unary"
        return cls(f"{request}_{response}")

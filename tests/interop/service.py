"""grpc.testing.TestService on pymicro, for grpc-go's interop client: `pymicro run tests/interop/service.py`.

`UnimplementedCall` has no handler, which is what the case `unimplemented_method` asks for. Nor is
`UnimplementedService` served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from pymicro import CallContext, Service
from tests.interop.generated import pb, rpc

INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"


class TestService(rpc.TestServiceServicer):  # type: ignore[misc]
    """The handlers, as the interop test descriptions have them."""

    async def EmptyCall(self, request: Any, context: CallContext) -> Any:
        return pb.Empty()

    async def UnaryCall(self, request: Any, context: CallContext) -> Any:
        await echo_metadata(context)
        await echo_status(request, context)
        return pb.SimpleResponse(payload=payload(request.response_size))

    async def StreamingOutputCall(self, request: Any, context: CallContext) -> AsyncIterator[Any]:
        async for response in responses(request):
            yield response

    async def StreamingInputCall(self, requests: AsyncIterator[Any], context: CallContext) -> Any:
        total = 0
        async for request in requests:
            total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def FullDuplexCall(self, requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
        await echo_metadata(context)
        async for request in requests:
            await echo_status(request, context)
            async for response in responses(request):
                yield response


async def echo_metadata(context: CallContext) -> None:
    """Send back what the caller sent under the two keys."""
    for value in context.metadata.get_all(TRAILING):
        context.set_trailing_metadata(((TRAILING, value),))
    for value in context.metadata.get_all(INITIAL):
        await context.send_initial_metadata(((INITIAL, value),))


async def echo_status(request: Any, context: CallContext) -> None:
    """End the call with the status that the request asks for, if any."""
    wanted = request.response_status
    if wanted.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == wanted.code)
        await context.abort(code, wanted.message)


async def responses(request: Any) -> AsyncIterator[Any]:
    for wanted in request.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        yield pb.StreamingOutputCallResponse(payload=payload(wanted.size))


def payload(size: int) -> Any:
    return pb.Payload(body=bytes(size))


service = Service("interop")
rpc.add_TestServiceServicer_to_server(TestService(), service)

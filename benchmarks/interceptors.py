"""Interceptors that do nothing: grpc.aio's for either end, and pymicro's one for both."""

from __future__ import annotations

from typing import Any

import grpc.aio

__all__ = ["AroundCall", "AroundHandler", "around"]


class AroundCall(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class AroundHandler(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


async def around(call: Any, proceed: Any) -> Any:
    return await proceed()

"""The server's interceptors: ours and plain grpc.aio ones, given in one list.

    async def authenticated(call: CallContext, proceed: Proceed) -> Any:
        if call.metadata.get("authorization") != TOKEN:
            raise Unauthenticated("who are you?")
        return await proceed()

    Service("greeter", interceptors=[authenticated])

`call` is the handler's own `CallContext`. grpc.aio's interceptors run outside
ours, wherever they are in the list; they see statuses, and ours see exceptions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pymicro.base.errors import ConfigError
from pymicro.rpc.interceptors import Interceptor, Proceed

if TYPE_CHECKING:
    import grpc.aio

    from pymicro.serving.call.context import CallContext

__all__ = ["ServerInterceptor", "split"]

ServerInterceptor = Callable[["CallContext", Proceed], Awaitable[Any]]


def split(
    interceptors: Sequence[ServerInterceptor | grpc.aio.ServerInterceptor],
) -> tuple[tuple[Interceptor, ...], tuple[grpc.aio.ServerInterceptor, ...]]:
    """Our interceptors, and grpc.aio's, each in the order given.

    Raises:
        ConfigError: One of them is neither.
    """
    ours: list[Interceptor] = []
    foreign: list[grpc.aio.ServerInterceptor] = []
    for interceptor in interceptors:
        if isinstance(interceptor, type):
            raise ConfigError(f"interceptor {interceptor.__qualname__} is a class: give an instance of it")
        if hasattr(interceptor, "intercept_service"):  # told by its form: this module does not import grpc
            foreign.append(cast("grpc.aio.ServerInterceptor", interceptor))
        elif callable(interceptor):
            ours.append(interceptor)
        else:
            raise ConfigError(
                f"interceptor {interceptor!r} is neither `async def f(call, proceed)` "
                "nor a grpc.aio.ServerInterceptor"
            )
    return tuple(ours), tuple(foreign)

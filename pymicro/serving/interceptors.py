"""The server's interceptors: ours and plain grpc.aio ones, given in one list.

    async def authenticated(call: CallContext, proceed: Proceed) -> Any:
        if call.metadata.get("authorization") != TOKEN:
            raise Unauthenticated("who are you?")
        return await proceed()

    Service("greeter", interceptors=[authenticated])

`call` is the handler's own `CallContext`. grpc.aio's interceptors run outside
ours, wherever they are in the list; they see statuses, and ours see exceptions.
What `bearer_jwt` and its like make says who calls, and is asked before any of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.identity.accepted import Accepted, AcceptedKeys, AcceptedTokens
from pymicro.rpc.interceptors import Interceptor, Proceed

if TYPE_CHECKING:
    import grpc.aio

    from pymicro.serving.call.context import CallContext

__all__ = ["ServerInterceptor", "split"]

ServerInterceptor = Callable[["CallContext", Proceed], Awaitable[Any]]


def split(
    interceptors: Sequence[ServerInterceptor | grpc.aio.ServerInterceptor | Accepted],
) -> tuple[tuple[Interceptor, ...], tuple[grpc.aio.ServerInterceptor, ...], tuple[Accepted, ...]]:
    """Our interceptors, grpc.aio's, and what says which tokens are taken, each in the order given.

    Raises:
        ConfigError: One of them is none of these.
    """
    ours: list[Interceptor] = []
    foreign: list[grpc.aio.ServerInterceptor] = []
    accepted: list[Accepted] = []
    for interceptor in interceptors:
        if isinstance(interceptor, AcceptedTokens | AcceptedKeys):
            accepted.append(interceptor)
        elif getattr(interceptor, "for_clients", False):
            raise ConfigError(
                f"interceptor {excerpt(interceptor)} sends a token, and goes to the calling end: "
                "client_interceptors= of a Service, interceptors= of a Client or a channel"
            )
        elif isinstance(interceptor, type):
            raise ConfigError(f"interceptor {interceptor.__qualname__} is a class: give an instance of it")
        elif hasattr(interceptor, "intercept_service"):  # told by its form: this module does not import grpc
            foreign.append(cast("grpc.aio.ServerInterceptor", interceptor))
        elif callable(interceptor):
            ours.append(interceptor)
        else:
            raise ConfigError(
                f"interceptor {excerpt(interceptor)} is neither `async def f(call, proceed)` "
                "nor a grpc.aio.ServerInterceptor"
            )
    return tuple(ours), tuple(foreign), tuple(accepted)

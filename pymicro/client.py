"""The client without a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

from pymicro.base.watchdog import watched
from pymicro.runtime.base_client import BaseClient, Settings, split_instances
from pymicro.settings.config import load

if TYPE_CHECKING:
    import grpc

__all__ = ["Client"]


class Client(BaseClient):
    """Calls services by name, with the settings of the environment.

        async with pymicro.Client() as client:
            stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
            reply = await stub.SayHello(request, timeout=2)

    Leaving the `async with` ends all calls in flight and closes every connection.

    Args:
        interceptors: They run around every call, outside those of a channel.
        options: grpc channel arguments for every channel; they override pymicro's.
        compression: Default compression of every channel.
        argv: Flags that override environment and keywords, for programs that
            read their own.
        environ: The environment; None means that of the process.
        settings: Every setting, as keywords; see `pymicro.settings.config.Config`.

    Raises:
        ConfigError: A setting, variable, flag or plug-in cannot be used.
    """

    def __init__(
        self,
        *,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
        argv: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        values, instances = split_instances(settings)
        super().__init__(instances, interceptors, options, compression)
        self.equip(load(values, argv, environ))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        lag = self.recorder.lag if self.recorder is not None else None
        self._stack.enter_context(watched(self.config.loop_lag, lag))
        return self

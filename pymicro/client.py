"""The client without a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

from pymicro.base.errors import StartError
from pymicro.base.loggers import logger
from pymicro.base.watchdog import watched
from pymicro.runtime.admin_port import admin_address, opened
from pymicro.runtime.base_client import BaseClient, Settings, split_instances
from pymicro.settings.config import load

if TYPE_CHECKING:
    import grpc

    from pymicro.telemetry.admin import AdminPort

__all__ = ["Client"]

log = logger("pymicro.admin")


class Client(BaseClient):
    """Calls services by name, with the settings of its surroundings: environment and file.

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
        environ: The environment; None means that of the process, and then a `pymicro.toml` of its
            working folder is read too.
        settings: Every setting, as keywords; see `pymicro.settings.config.Config`.

    Entering it raises StartError if `admin_address` is given in code or by a flag, and is taken.

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
        self._admin: AdminPort | None = None

    @property
    def admin_address(self) -> str | None:
        """`host:port` of its admin port, while it is open; None if it has none."""
        return self._admin.address if self._admin is not None and self._open else None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            lag = self.recorder.lag if self.recorder is not None else None
            self._stack.enter_context(watched(self.config.loop_lag, lag))
            await self._open_admin_port()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _open_admin_port(self) -> None:
        address = admin_address(self.config, self.registry.name, service=False)
        try:
            port = await self._stack.enter_async_context(opened(address, self))
        except StartError as exc:
            if self.config.source("admin_address").startswith(("code", "flag")):
                raise
            # Environment and file speak to others too: a service, or another client, has the port.
            log.warning("%s; this client goes on without", exc)
        else:
            self._admin = port
            if port is not None:
                log.info("the client tells how it fares on http://%s", port.address)

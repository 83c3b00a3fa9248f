"""Whether the engine that is installed is the one that transport `fast` was written for."""

from __future__ import annotations

from pymicro.base.errors import ConfigError, PluginError

__all__ = ["check_engine"]

# The interface of the engine that both ends were written for.
_WRITTEN_FOR = 2


def check_engine() -> None:
    """Look at the engine, before anything imports parts of it that another release does not have.

    Raises:
        PluginError: It is not installed.
        ConfigError: It is of another pymicro.
    """
    try:
        from pymicro_fast import INTERFACE
    except ModuleNotFoundError as exc:
        if exc.name != "pymicro_fast":
            raise
        raise PluginError("transport fast needs pymicro-fast: pip install 'pymicro-grpc[fast]'") from exc
    if INTERFACE != _WRITTEN_FOR:
        raise ConfigError(
            f"the installed pymicro-fast has interface {INTERFACE}, and this pymicro was written for "
            f"{_WRITTEN_FOR}: install both of one release, pip install --upgrade 'pymicro-grpc[fast]'"
        )

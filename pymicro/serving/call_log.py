"""One log line for each call, at level debug."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from grpc.aio import AbortError

from pymicro.base.loggers import logger
from pymicro.rpc.interceptors import Proceed
from pymicro.rpc.status import RpcError
from pymicro.serving.call.context import CallContext

__all__ = ["log_calls"]

log = logger("pymicro.server")


async def log_calls(call: CallContext, proceed: Proceed) -> Any:
    """An ordinary interceptor; without debug logging it is not installed and costs nothing."""
    started = time.monotonic()
    outcome = "OK"
    try:
        return await proceed()
    except RpcError as exc:
        outcome = exc.status_code.name if exc.callee is None else f"received {exc}"
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except AbortError:
        outcome = f"aborted {call.code()}"
        raise
    except BaseException as exc:
        outcome = type(exc).__name__
        raise
    finally:
        elapsed = (time.monotonic() - started) * 1e3
        log.debug("%s from %s: %s in %.1f ms", call.method, call.peer(), outcome, elapsed)

"""What `pymicro bench` does once its arguments are parsed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PymicroError
from pymicro.calling.peers.reflection import ReflectionClient
from pymicro.cli.bench_report import Report
from pymicro.cli.calling import CallOptions
from pymicro.cli.clients import known_nodes, make_client, saying_what_it_waits_for
from pymicro.cli.exchange import multicallable, only_request, read_requests
from pymicro.cli.load import Load, apply_load
from pymicro.cli.message_types import Reflected
from pymicro.cli.progress import Progress
from pymicro.cli.report import EXIT_FAILED, EXIT_INTERRUPTED, InputError, note
from pymicro.cli.tally import Tally
from pymicro.rpc.schema import MethodNotFound, ProtoMethod
from pymicro.rpc.status import RpcError

if TYPE_CHECKING:
    from pymicro.calling.channel import Channel

__all__ = ["bench_method"]


class _Caller:
    """Makes one call after the other, with the same requests.

    Args:
        requests: Already serialized: the benchmark must not measure that.
        tally: Counts the calls.
    """

    def __init__(
        self,
        channel: Channel,
        method: ProtoMethod,
        requests: Sequence[bytes],
        options: CallOptions,
        tally: Tally,
    ) -> None:
        self._make = multicallable(channel, method, None)
        self._method = method
        self._requests = requests
        self._arguments = {"timeout": options.timeout or None, "metadata": options.headers or None}
        self._tally = tally

    async def __call__(self, begin: float) -> None:
        tally = self._tally
        request: Any = iter(self._requests) if self._method.client_streaming else self._requests[0]
        call = self._make(request, **self._arguments)
        try:
            if self._method.server_streaming:
                async for _ in call:
                    tally.replies += 1
            else:
                await call
                tally.replies += 1
        except RpcError as exc:
            tally.fail(exc.code().name, exc.details() or "")
            # If nothing can be called, a failure may come without any wait, so yield to the loop here.
            await asyncio.sleep(0)
        else:
            tally.latencies.add(time.perf_counter() - begin)
        tally.went_to(call.node, call.attempts)


async def bench_method(options: CallOptions, load: Load, argv: Sequence[str], *, as_json: bool) -> int:
    """Apply the load and print the measurements; return the exit code."""
    proto_files = options.proto_files()
    async with make_client(options.settings(argv), waits=True) as client:
        channel = options.channel(client)
        limit = client.config.client_request_timeout if options.timeout is None else options.timeout
        reflection = ReflectionClient(channel, timeout=limit or None, metadata=options.headers)
        types = proto_files or Reflected(reflection)
        try:
            async with saying_what_it_waits_for(client, options.service):
                method = await types.find_method(options.method)
            if method.client_streaming:
                messages = [one async for one in read_requests(options.requests, method, types)]
            else:
                messages = [await only_request(options.requests, method, types)]
        except MethodNotFound as exc:
            raise InputError(str(exc)) from exc
        except RpcError as exc:
            note(f"{exc.code().name}: {exc.details()}")
            return EXIT_FAILED
        requests = [message.SerializeToString() for message in messages]
        stop = asyncio.Event()
        tally = Tally()
        with _interrupts(stop):
            if load.warmup:
                caller = _Caller(channel, method, requests, options, Tally())
                await apply_load(load, caller, seconds=load.warmup, requests=None, stop=stop)
            caller = _Caller(channel, method, requests, options, tally)
            async with Progress(load, tally, shown=not as_json):
                ran = await apply_load(load, caller, seconds=load.seconds, requests=load.requests, stop=stop)
        with suppress(PymicroError):  # the registry is away: the nodes that got calls are known
            tally.know(await known_nodes(client, options.service))
    report = Report(options.service, method, load, tally, ran, interrupted=stop.is_set())
    report.print_json() if as_json else report.print_text()
    if stop.is_set():
        return EXIT_INTERRUPTED
    return 0 if report.all_ok else EXIT_FAILED


@contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C sets `stop`; a second one interrupts as usual."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)

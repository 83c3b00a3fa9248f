"""`pymicro bench`: call a method again and again, and report how long that takes."""

from __future__ import annotations

from typing import Any

import click

from pymicro.cli.clients import run
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.request_options import request_options

__all__ = ["bench"]


@click.command("bench", cls=SettingsCommand)
@request_options
@click.option("-c", "--concurrency", type=int, metavar="N", help="Calls at a time.  [10; with --rate 1000]")
@click.option("--rate", type=float, metavar="R", help="Calls a second; each begins when it is due.")
@click.option("-d", "--duration", metavar="DURATION", help="Begin calls for so long, 1h at most.  [10s]")
@click.option("-n", "--requests", "count", type=int, metavar="N", help="End after so many calls.")
@click.option(
    "--warmup", metavar="DURATION", default="0s", help="Make the same load first, and do not count it."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Text (default) or a JSON object.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    service: str,
    method: str,
    request_json: str,
    concurrency: int | None,
    rate: float | None,
    duration: str | None,
    count: int | None,
    warmup: str,
    output: str,
    **words: Any,
) -> int:
    """Call METHOD of SERVICE again and again; print latencies, errors and each node's share.

    SERVICE, METHOD and JSON are as in 'pymicro call'. Each call sends a stream of
    requests whole, and a call with a stream of replies counts when the stream has
    ended. Calls go through the registry, the selector, the balancer and the retries
    that a client with these settings has.

    Without --rate a call begins when the one before it has ended, with --concurrency
    calls at a time, so a slow service is called less. With --rate a call begins when
    it is due, and its latency counts from then: a call that had to wait behind slow
    ones shows it.

    With -o json an object: calls, ok, seconds, calls_per_second, latency_ms (min,
    mean, p50 to p99.9, max), errors (status, calls, the first message), nodes
    (id, address, version, calls, share), most_by_mean (the busiest node's calls
    divided by the mean of all nodes; 1 is even), retries, replies, unfinished, not_begun.

    Latency is that of calls that were OK. A call that still runs 5s after the end is
    cancelled and counts as unfinished.

    Exit code 0 if every call was OK, 1 if not, 130 after Ctrl-C, which prints what
    was measured until then.
    """
    from pymicro.cli.benching import bench_method
    from pymicro.cli.calling import CallOptions
    from pymicro.cli.load import Load

    load = Load.read(concurrency=concurrency, rate=rate, duration=duration, requests=count, warmup=warmup)
    options = CallOptions.read(service, method, request_json, verbose=False, **words)
    return run(bench_method(options, load, settings_argv(ctx), as_json=output == "json"))

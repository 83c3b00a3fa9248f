"""`pymicro call`: call a method of a service, with JSON in and out."""

from __future__ import annotations

import click

from pymicro.cli.clients import run
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.request_options import request_options

__all__ = ["call"]


@click.command("call", cls=SettingsCommand)
@request_options
@click.option("-v", "--verbose", is_flag=True, help="Show node, metadata and time on stderr.")
@click.pass_context
def call(
    ctx: click.Context,
    service: str,
    method: str,
    request_json: str,
    timeout: str | None,
    headers: tuple[str, ...],
    address: str | None,
    protos: tuple[str, ...],
    proto_paths: tuple[str, ...],
    verbose: bool,
) -> int:
    """Call METHOD of SERVICE and print the reply as JSON.

    SERVICE is the name it registers under. METHOD is Greeter.SayHello or
    Greeter/SayHello, with or without the package in front. SayHello alone is enough
    if only one proto service has it.

    JSON is the request ({} if not given); @FILE reads it from a file, - from stdin.
    A stream of requests is one document after the other. The replies of a stream are
    printed one a line, as they come. Fields are printed in lowerCamelCase, and read
    in that form or as the proto spells them.

    An error is printed as NOT_FOUND: text. The exit code is then 64 plus the number
    of the status.
    """
    # This imports grpc, which --help does without.
    from pymicro.cli.calling import CallOptions, call_method

    options = CallOptions.read(
        service,
        method,
        request_json,
        timeout=timeout,
        headers=headers,
        address=address,
        protos=protos,
        proto_paths=proto_paths,
        verbose=verbose,
    )
    return run(call_method(options, settings_argv(ctx)))

"""The arguments that tell `call` and `bench` what to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pymicro.cli.completing import complete_methods, complete_services
from pymicro.cli.service_name import SERVICE_NAME

__all__ = ["request_options"]

F = TypeVar("F", bound=Callable[..., Any])


def request_options(command: F) -> F:
    """Adds the arguments by which `call` and `bench` learn the method and its requests."""
    decorators = [
        click.argument("service", type=SERVICE_NAME, shell_complete=complete_services),
        click.argument("method", shell_complete=complete_methods),
        click.argument("request_json", metavar="[JSON]", default="{}"),
        click.option(
            "--timeout",
            metavar="DURATION",
            help="Give up after this time, such as 500ms or 2 (seconds); 0 for never.",
        ),
        click.option(
            "-H",
            "--header",
            "headers",
            metavar="KEY:VALUE",
            multiple=True,
            help="Metadata of the request; in base64 if the key ends in -bin. May be repeated.",
        ),
        click.option("--address", metavar="HOST:PORT", help="Call this node, and ask no registry."),
        click.option(
            "--proto",
            "protos",
            metavar="FILE",
            multiple=True,
            help="Learn methods and types from this proto file instead of the server's reflection. "
            "May be repeated.",
        ),
        click.option(
            "-I",
            "--proto-path",
            "proto_paths",
            metavar="FOLDER",
            multiple=True,
            help="Look for --proto files and their imports here. May be repeated.",
        ),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command

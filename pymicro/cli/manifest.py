"""`pymicro manifest`: what a service needs to run on Kubernetes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Literal, cast

import click

from pymicro.cli.completing import complete_files
from pymicro.cli.flags import debug_option
from pymicro.cli.manifests import DEFAULT_ADMIN_PORT, DEFAULT_PORT, Deployed, render
from pymicro.cli.report import EXIT_FAILED, Session, complain
from pymicro.nodes.address import split_address
from pymicro.nodes.wellknown import KEEPALIVE

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["manifest"]

# Seconds that a service on Kubernetes waits for clients to see it leave, unless its code says otherwise.
_DRAIN_DELAY = 5.0


@click.command("manifest")
@click.argument("target", shell_complete=complete_files)
@click.option(
    "--mode",
    type=click.Choice(["labels", "patch"]),
    default="labels",
    help="How clients find its pods: by labels of the pod template, which needs no rights (default), "
    "or by the record that each pod writes onto itself, which go-micro's clients need.",
)
@click.option(
    "--image", metavar="IMAGE", default="", help="The container's image.  [NAME:VERSION of the service]"
)
@click.option(
    "--replicas", type=click.IntRange(min=0), default=3, metavar="N", help="How many pods run.  [3]"
)
@click.option("--namespace", metavar="NAMESPACE", default="", help="Put every object into this namespace.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="The port it listens on.  [that of server_address in its code, else 8080]",
)
@click.option(
    "--calls", is_flag=True, help="The service calls others: give its account the right to find them."
)
@debug_option
@click.pass_context
def manifest(
    ctx: click.Context,
    target: str,
    mode: str,
    image: str,
    replicas: int,
    namespace: str,
    port: int | None,
    calls: bool,
) -> int:
    """Print the Kubernetes manifests of the Service in TARGET.

    TARGET is what the image gives to 'pymicro run', which looks it up below /app:
    path.py, path.py:name, package.module or package.module:name. The command imports
    the file and does not run it.

    \b
    pymicro manifest server.py --image greeter:1.0.0 | kubectl apply -f -

    It prints a Deployment with its probes, spread over machines and zones; a limit
    on how many of its pods may be away at a time; a NetworkPolicy that leaves only
    its port open, to its namespace; and the account that its clients run under.
    """
    from pymicro.cli.loader import UserCodeFailed, load_service

    try:
        # Text that the module prints is no YAML, so it goes to stderr.
        with contextlib.redirect_stdout(sys.stderr):
            service = load_service(target, [])
    except UserCodeFailed as exc:
        session = ctx.find_object(Session) or Session()
        complain(session, str(exc), exc.__cause__ or exc)
        return EXIT_FAILED
    # The variables of this machine say nothing about the pod.
    config = service.config_for(environ={})
    port, listen = _listening(config, port)
    deployed = Deployed(
        service=config.server_name,
        version=config.server_version,
        target=_in_image(target),
        mode=cast(Literal["labels", "patch"], mode),
        image=image,
        replicas=replicas,
        namespace=namespace,
        port=port,
        listen=listen,
        drain_delay=_DRAIN_DELAY if config.drain_delay is None else config.drain_delay,
        stop_grace=config.stop_grace,
        calls=calls,
        keepalive=service.node_metadata(config).get(KEEPALIVE, ""),
        admin_port=_admin_port(config),
    )
    sys.stdout.write(render(deployed))
    return 0


def _in_image(target: str) -> str:
    """The argument of `run` in the image: a relative path as typed, of an absolute path only the file."""
    return os.path.basename(target) if os.path.isabs(target) else os.path.normpath(target)


def _admin_port(config: Config) -> int:
    """The admin port that kubelet and others reach in the pod; 0 if they reach none."""
    address = config.admin_address
    if not address:
        return DEFAULT_ADMIN_PORT
    try:
        host, port = split_address(address)
    except ValueError:
        return 0  # it is off; a bad address will end the service's start, which says why
    return port if host in ("", "0.0.0.0", "::") else 0  # noqa: S104, RUF100


def _listening(config: Config, wanted: int | None) -> tuple[int, bool]:
    """The port, and whether the pod must be told to listen on it."""
    address = config.server_address
    if not address:
        port = wanted or DEFAULT_PORT
        return port, port != DEFAULT_PORT
    try:
        _, own = split_address(address, default_port=0)
    except ValueError:
        own = 0  # a socket of the machine itself: callers of a pod cannot reach it
    port = wanted or own or DEFAULT_PORT
    return port, address != f"0.0.0.0:{port}"

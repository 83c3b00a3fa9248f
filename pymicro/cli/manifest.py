"""`pymicro manifest`: what a service needs to run on Kubernetes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from pymicro.base.errors import ConfigError
from pymicro.cli.completing import complete_files
from pymicro.cli.flags import debug_option
from pymicro.cli.manifests import DEFAULT_ADMIN_PORT, DEFAULT_PORT, Deployed, render
from pymicro.cli.manifests_tls import DEFAULT_TLS_PORT, CertificateSource
from pymicro.cli.report import EXIT_FAILED, Session, complain
from pymicro.nodes.address import split_address
from pymicro.nodes.wellknown import KEEPALIVE, TLS

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
    help="The port it listens on.  [that of server_address in its code, else 8080, and 8443 with --tls]",
)
@click.option(
    "--calls", is_flag=True, help="The service calls others: give its account the right to find them."
)
@click.option(
    "--tls",
    "way",
    type=click.Choice(["cert-manager", "podcertificate", "secret"]),
    help="Speak TLS. The certificates come from cert-manager (its Certificate is printed too); from a Secret "
    "with tls.crt, tls.key and ca.crt that somebody else writes; or from a signer that the kubelet asks "
    "(Pod Certificates: Kubernetes 1.37, or from 1.34 on with the feature gates PodCertificateRequest, "
    "ClusterTrustBundle and ClusterTrustBundleProjection).",
)
@click.option(
    "--tls-from",
    "source",
    metavar="NAME",
    default="",
    help="cert-manager: the Issuer, or ClusterIssuer/NAME. podcertificate: the signer. secret: the Secret.  "
    "[that of its object's name and -tls]",
)
@click.option(
    "--plain-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="With --tls, serve plain text on this port as well, until all callers have certificates.",
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
    way: str | None,
    source: str,
    plain_port: int | None,
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
    With --tls its pods have certificates, an account of their own that these name,
    and probes that ask the admin port.
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
    tls = _tls(config, way, source, plain_port)
    port, listen = _listening(config, port, DEFAULT_PORT if tls is None else DEFAULT_TLS_PORT)
    said = service.node_metadata(config)
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
        keepalive=said.get(KEEPALIVE, ""),
        admin_port=_admin_port(config),
        tls=tls,
        said_tls=said.get(TLS, ""),
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


def _tls(config: Config, way: str | None, source: str, plain_port: int | None) -> CertificateSource | None:
    """Where its pods get certificates.

    Raises:
        ConfigError: The options fit neither each other nor what its code says.
    """
    if way is None:
        for option, given in (("--tls-from", source), ("--plain-port", plain_port)):
            if given:
                raise ConfigError(f"{option} belongs to --tls, which says where the certificates come from")
        return None
    for name in ("tls_dir", "tls_bundle", "tls_cert", "tls_key", "tls_ca"):
        if getattr(config, name):
            raise ConfigError(
                f"its code sets {name}, and --tls would say where the certificates are: leave one out"
            )
    return CertificateSource(way=cast(Any, way), source=source, plain_port=plain_port or 0)


def _listening(config: Config, wanted: int | None, default: int) -> tuple[int, bool]:
    """The port, and whether the pod must be told to listen on it."""
    address = config.server_address
    if not address:
        port = wanted or default
        return port, port != DEFAULT_PORT
    try:
        _, own = split_address(address, default_port=0)
    except ValueError:
        own = 0  # a socket of the machine itself: callers of a pod cannot reach it
    port = wanted or own or default
    return port, address != f"0.0.0.0:{port}"

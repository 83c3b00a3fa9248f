"""From settings and handlers to what holds calls against the rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.identity.accepted import Accepted
from pymicro.identity.rules import AllowedCallers, CallRules
from pymicro.serving.call.authentication import Authentication
from pymicro.serving.call.authorization import Authorizer
from pymicro.serving.handlers.types import HandlerTable, RpcHandler
from pymicro.settings.config import Config

__all__ = ["OFF", "REFLECTION", "asking_health", "guard_of", "rules_path"]

log = logger("pymicro.server")

OFF = "off"
REFLECTION = frozenset(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)


def asking_health(
    health: Iterable[HandlerTable], debug: Iterable[RpcHandler], users: Iterable[HandlerTable]
) -> frozenset[str]:
    """The paths that ask how a service is: everybody may, as probes and balancers do.

    Args:
        health: What answers grpc.health.v1.
        debug: What answers go-micro's questions.
        users: What was added; a method of that path is a method like any other.
    """
    asked = {method.rpc.path for table in health for method in table.methods}
    own = {method.rpc.path for table in users for method in table.methods}
    gomicro = {method.rpc.path for method in debug} - own
    return frozenset(asked | {path for path in gomicro if path.endswith("Debug/Health")})


def rules_path(config: Config) -> str:
    """The file with rules; empty for none."""
    return "" if config.authorization.lower() == OFF else config.authorization


def guard_of(
    config: Config,
    tables: Iterable[HandlerTable],
    services: Mapping[str, AllowedCallers],
    health: frozenset[str],
    accepted: Sequence[Accepted] = (),
    *,
    known: bool,
    secured: bool = False,
) -> Authorizer | None:
    """What holds calls against the rules; None if callers are not known here.

    Args:
        config: All settings.
        tables: What was added.
        services: Who may call which service, as it was said when that was added.
        health: Paths that everybody may call.
        accepted: Which tokens and API keys are taken.
        known: Whether callers can prove who they are by a certificate.
        secured: Whether a port speaks TLS.

    Raises:
        ConfigError: There are rules, and callers cannot prove who they are; or tokens could only come
            in plain text.
    """
    authentication = Authentication(accepted) if accepted else None
    off = config.authorization.lower() == OFF
    if authentication is not None and not (secured or authentication.plain_text or off):
        raise ConfigError(
            "tokens and API keys are taken over TLS only, since others could read them on the way, and this "
            "service has no certificate: give it one (tls_dir; with tls_client_certificates none where "
            "callers have none), or say plain_text=True where the network is trusted"
        )
    methods = {
        method.rpc.path[1:]: callers
        for table in tables
        for method in table.methods
        if (callers := AllowedCallers.of(method.allow, f"allow= of {method.label}")) is not None
    }
    # An empty list that somebody has written lets nobody in.
    said = config.allow if config.allow or config.source("allow") != "default" else None
    rules = CallRules(AllowedCallers.of(said, "allow"), services, methods)
    if off:
        if rules or authentication is not None:
            log.warning("authorization is off: whoever reaches the port may call everything")
        rules = CallRules()
    elif (rules or config.authorization) and not known and authentication is None:
        raise ConfigError(
            "there are rules about who may call (allow, authorization), and callers cannot prove who "
            "they are: give the service a certificate (tls_dir), and leave tls_client_certificates at "
            "require or optional; authorization off leaves the rules out"
        )
    if not known and authentication is None:
        return None
    everybodys = health | (REFLECTION if config.reflection == "open" else frozenset())
    return Authorizer(rules, everybodys, authentication, enforced=not off)

"""Settings: flag > environment > file > code > default; each value keeps its source.

`Config` is the one place that documents every setting. The names are go-micro 1.x's
if it has the setting: setting `x_y` is flag `--x-y` (or `--x_y`) and environment
variable `MICRO_X_Y`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, shortened
from pymicro.base.suggest import did_you_mean
from pymicro.settings.access import ACCESS_LOG
from pymicro.settings.file import FILE_NAME, OFF, SERVICE_VARIABLE, SettingsFile, file_here, read_file
from pymicro.settings.kinds import (
    ADDRESSES,
    COUNT,
    DURATION,
    LIST,
    PAIRS,
    POSITIVE,
    SECRET,
    SIZE,
    TEXT,
    Kind,
    one_of,
    optional,
    renamed,
)

__all__ = [
    "Config",
    "Kind",
    "Setting",
    "environment_name",
    "flag_name",
    "in_pod",
    "load",
    "parse_flags",
    "render",
    "settings",
    "unknown_environment",
    "without_effect",
]

PREFIX = "MICRO_"

_GOMICRO_TRANSPORTS = ("http", "memory", "nats", "quic", "rabbitmq", "tcp", "utp")


def in_pod(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process runs in a Kubernetes pod (client-go's in-cluster check reads the same)."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("KUBERNETES_SERVICE_HOST"))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting's name and meaning; `settings()` lists them all."""

    name: str
    kind: Kind
    default: Any
    help: str
    ignored: bool

    @property
    def flag(self) -> str:
        """`--registry-address`."""
        return flag_name(self.name)

    @property
    def variable(self) -> str:
        """`MICRO_REGISTRY_ADDRESS`."""
        return environment_name(self.name)


def _setting(kind: Kind, default: Any, text: str, *, ignored: bool = False) -> Any:
    # A factory, because dataclasses refuse a mutable default.
    metadata = {"kind": kind, "default": default, "help": text, "ignored": ignored}
    return field(default_factory=lambda: default, metadata=metadata, repr=kind is not SECRET)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Every setting's present value. Seconds are floats, sizes are bytes.

    `sources` gives the source of each value by name: `flag --registry`,
    `environment MICRO_REGISTRY`, `pymicro.toml:4`, `code` or `default`. `remarks` are for the log.
    """

    server_name: str = _setting(TEXT, "", "name the service registers under")
    server_version: str = _setting(TEXT, "", "version it registers with")
    server_id: str = _setting(TEXT, "", "id of the node; a new one for each start if unset")
    server_metadata: Mapping[str, str] = _setting(PAIRS, {}, "metadata that its node carries in the registry")
    server_address: str = _setting(
        TEXT, "", "host:port to listen on; if unset 127.0.0.1:0, in a Kubernetes pod 0.0.0.0:8080"
    )
    server_advertise: str = _setting(
        TEXT, "", "host or host:port to publish instead of the one it listens on"
    )
    registry: str = _setting(TEXT, "local", "registry that knows the nodes")
    registry_address: tuple[str, ...] = _setting(
        ADDRESSES, (), "address of the registry; what it means depends on the registry"
    )
    registry_namespace: tuple[str, ...] = _setting(
        LIST,
        (),
        "namespaces to look in, if the registry has any; the one of this process if unset, * for all",
    )
    registry_advertise: str = _setting(
        one_of("auto", "patch", "labels", "none"),
        "auto",
        "how a service publishes its node, if the registry has several ways",
    )
    registry_user: str = _setting(TEXT, "", "user name, if the registry knows users")
    registry_password: str = _setting(SECRET, "", "that user's password")
    registry_tls_ca: str = _setting(
        TEXT, "", "PEM file with the authorities that the registry's certificate must come from"
    )
    registry_tls_cert: str = _setting(TEXT, "", "PEM file with the certificate shown to the registry")
    registry_tls_key: str = _setting(TEXT, "", "PEM file with the key of that certificate")
    register_ttl: int = _setting(
        COUNT, 60, "seconds until a registry that forgets drops a node that is not renewed"
    )
    register_interval: int = _setting(COUNT, 30, "seconds between renewals of the registration; 0 for none")
    selector: str = _setting(
        renamed(default="registry", cache="registry"),
        "registry",
        "selector that gives the nodes of a service",
    )
    balancer: str = _setting(TEXT, "p2c", "balancer that picks a node for each call")
    client_request_timeout: float = _setting(
        DURATION, 5.0, "timeout of unary calls that have none, for all attempts together; 0 for none"
    )
    client_first_wait: float = _setting(
        DURATION, 2.0, "time in which a client's calls wait for a service that it has not met yet; 0 for none"
    )
    client_retries: int = _setting(
        COUNT, 1, "further attempts on other nodes, if a call may safely be retried; 0 for none"
    )
    outlier_ejection: str = _setting(
        one_of("on", "off"), "on", "leave out nodes for a while if their calls fail"
    )
    subset_size: int = _setting(COUNT, 100, "most nodes of one service a client connects to; 0 for all")
    zone: str = _setting(TEXT, "", "zone of this process; it prefers nodes of the same zone")
    slow_start: float = _setting(
        DURATION, 0.0, "time in which a new node's share of the calls grows to its full size; 0 for at once"
    )
    keepalive: float = _setting(
        DURATION, 20.0, "interval of the pings that find dead nodes, to nodes that permit them; 0 for none"
    )
    forward_metadata: tuple[str, ...] = _setting(
        LIST,
        ("traceparent", "tracestate", "baggage", "x-request-id"),
        "request metadata that a handler's onward calls pass on",
    )
    transport: str = _setting(
        # go-micro's own words for other transports were never of effect here.
        one_of("grpc", "fast", **dict.fromkeys(_GOMICRO_TRANSPORTS, "grpc")),
        "grpc",
        "what carries calls: grpc (grpc.aio), or fast (HTTP/2 in the event loop, which needs pymicro-fast)",
    )
    tls_cert: str = _setting(
        TEXT, "", "PEM file with this process's certificate and those that lead to an authority"
    )
    tls_key: str = _setting(TEXT, "", "PEM file with the key of that certificate")
    tls_ca: str = _setting(
        TEXT, "", "PEM file with the authorities whose certificates are believed; read anew like the others"
    )
    tls_dir: str = _setting(
        TEXT, "", "folder with tls.crt, tls.key and ca.crt, instead of tls_cert, tls_key and tls_ca"
    )
    tls_bundle: str = _setting(
        TEXT, "", "PEM file with key and certificates together, instead of tls_cert and tls_key"
    )
    tls_client_certificates: str = _setting(
        one_of("require", "optional", "none"),
        "require",
        "whether a server with a certificate asks its callers for theirs",
    )
    tls_plain_address: str = _setting(
        TEXT, "", "host:port on which a server with a certificate serves plain text besides"
    )
    tls_server_name: str = _setting(
        TEXT, "{service}", "name that a node's certificate must have; {service} and {namespace} are filled in"
    )
    client_tls: str = _setting(
        one_of("auto", "require", "off"),
        "auto",
        "TLS to nodes: auto (to those whose record says so), require (to all), off",
    )
    allow: tuple[str, ...] = _setting(
        LIST, (), "callers that may call, by what their certificates or tokens say; everybody if unset"
    )
    authorization: str = _setting(
        TEXT, "", "TOML file that says who may call which service or method; or off, for no rules at all"
    )
    reflection: str = _setting(
        one_of("allowed", "open", "off"),
        "allowed",
        "who may ask a server for its protos: whom allow names, everybody, or nobody",
    )
    max_message_size: int = _setting(SIZE, 4 << 20, "largest message received")
    max_sent_message_size: int | None = _setting(
        optional(SIZE), None, "largest message sent; whatever the receiver takes if unset"
    )
    max_connection_age: float = _setting(
        DURATION, 0.0, "age at which a server ends a connection; no call fails; 0 for never"
    )
    max_concurrent_calls: int = _setting(
        COUNT,
        0,
        "calls a server works on at a time; it refuses more, and clients go elsewhere; 0 for no limit",
    )
    handler_threads: int = _setting(
        POSITIVE, min(32, (os.cpu_count() or 1) + 4), "threads for handlers that are plain functions"
    )
    drain_delay: float | None = _setting(
        optional(DURATION), None, "time between deregistering and stopping; the registry's own if unset"
    )
    stop_grace: float = _setting(DURATION, 20.0, "time that calls have to finish at a stop")
    log_level: str = _setting(
        one_of("debug", "info", "warning", "error", trace="debug", warn="warning", fatal="error"),
        "info",
        "lowest level that is logged",
    )
    log_format: str = _setting(
        one_of("auto", "human", "json"), "auto", "log lines for people or as JSON objects"
    )
    access_log: str = _setting(
        ACCESS_LOG, "off", "a line in the log for each call served, for a share of them, or for slow ones"
    )
    metrics: str = _setting(one_of("on", "off"), "on", "count calls, nodes and connections, to be scraped")
    tracing: str = _setting(
        one_of("auto", "off"), "auto", "spans of calls, where the program has set up OpenTelemetry's SDK"
    )
    admin_address: str = _setting(
        TEXT,
        "",
        "host:port on which it tells operators how it fares, or off; if unset 0.0.0.0:9464 in a "
        "Kubernetes pod, 127.0.0.1:0 where the registry is of this machine, else off",
    )
    ready_after: tuple[str, ...] = _setting(
        LIST, (), "services that it calls: /readyz waits for the first nodes of each"
    )
    config: str = _setting(
        TEXT,
        "",
        f"file with settings, or {OFF} for none; if unset {FILE_NAME} of the working folder, if there is one",
    )
    loop: str = _setting(one_of("auto", "uvloop", "asyncio"), "auto", "event loop of `run`")
    loop_lag: float = _setting(
        DURATION, 0.5, "time after which the log names the code that holds the event loop; 0 for never"
    )
    debug_errors: str = _setting(
        one_of("on", "off"),
        "off",
        "tell callers on this machine what an internal error is, with its traceback; refused in a pod",
    )
    client_pool_size: int = _setting(COUNT, 100, "of go-micro; connections here multiplex", ignored=True)
    client_pool_ttl: float = _setting(DURATION, 60.0, "of go-micro; connections here multiplex", ignored=True)
    client: str = _setting(one_of("grpc"), "grpc", "of go-micro; only grpc")
    server: str = _setting(one_of("grpc"), "grpc", "of go-micro; only grpc")
    broker: str = _setting(TEXT, "", "of go-micro; there is no broker", ignored=True)
    broker_address: str = _setting(TEXT, "", "of go-micro; there is no broker", ignored=True)
    transport_address: str = _setting(TEXT, "", "of go-micro; gRPC has its own", ignored=True)
    runtime: str = _setting(TEXT, "", "of go-micro; there is no runtime", ignored=True)
    profile: str = _setting(TEXT, "", "of go-micro; there is no such profiler", ignored=True)

    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def source(self, name: str) -> str:
        """The source of the value of `name`."""
        return self.sources.get(name, "default")

    def replace(self, source: str, **values: Any) -> Config:
        """A copy with these values, with `source` as their source."""
        sources = {**self.sources, **dict.fromkeys(values, source)}
        return dataclasses.replace(self, sources=sources, **values)


def flag_name(name: str) -> str:
    """`--registry-address` for `registry_address`."""
    return "--" + name.replace("_", "-")


def environment_name(name: str) -> str:
    """`MICRO_REGISTRY_ADDRESS` for `registry_address`."""
    return PREFIX + name.upper()


def _read_settings() -> Mapping[str, Setting]:
    table = {}
    for item in dataclasses.fields(Config):
        if "kind" in item.metadata:
            table[item.name] = Setting(item.name, **item.metadata)
    return table


_SETTINGS = _read_settings()


def settings() -> Mapping[str, Setting]:
    """All settings by name, in the order of `Config`."""
    return _SETTINGS


class _Values:
    """Values that were found, and where."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def set(self, name: str, raw: Any, source: str, where: str) -> None:
        """Take a value, which has the last word until the next one.

        Args:
            source: Where it came from, as `sources` says it.
            where: The same, as a message begins.
        """
        kind = _SETTINGS[name].kind
        try:
            self.values[name] = kind.parse(raw) if isinstance(raw, str) else kind.accept(raw)
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"{where}: {exc}") from exc
        self.sources[name] = source

    def set_from_file(self, file: SettingsFile, service: str) -> None:
        for name, (raw, place) in file.settings(service).items():
            if name not in _SETTINGS:
                hint = did_you_mean(name, list(_SETTINGS))
                raise ConfigError(f"{place}: there is no setting {excerpt(name)}{hint}")
            if name == "config":
                raise ConfigError(f"{place}: a file with settings cannot name another one")
            self.set(name, raw, place, f"{place}: {name}")


def load(
    code: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Find every setting's value: flag, else environment, else file, else code, else default.

    Args:
        code: Values from keywords of `Service` or `Client`; None means not given.
        argv: Flags, without the program's name.
        environ: The environment with `MICRO_*`. An empty variable counts as unset. None means
            that of the process, and then its working folder counts too: the `pymicro.toml` in
            it is read unless another file is named.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the text says which,
            and what would be accepted.
    """
    surroundings = os.environ if environ is None else environ
    found = _Values()
    for name, value in (code or {}).items():
        if name not in _SETTINGS:
            hint = did_you_mean(name, list(_SETTINGS))
            raise ConfigError(f"there is no setting {excerpt(name)}{hint}")
        if value is not None:
            found.set(name, value, "code", f"{name}= in code")
    above = _Values()  # what a file has no say in
    for name, setting in _SETTINGS.items():
        text = surroundings.get(setting.variable, "")
        if text.strip():
            above.set(name, text, f"environment {setting.variable}", setting.variable)
    for name, text in parse_flags(argv).items():
        flag = _SETTINGS[name].flag
        above.set(name, text, f"flag {flag}", flag)
    named = above.values.get("config") or found.values.get("config")
    source = above.sources.get("config") or found.sources.get("config", "working folder")
    file: SettingsFile | str | None = None
    if named:
        file = _named_file(named, source)
    elif environ is None:
        file = file_here()
    if isinstance(file, SettingsFile):
        found.set_from_file(file, surroundings.get(SERVICE_VARIABLE, "") or _own_name(code))
        above.values["config"], above.sources["config"] = str(file.path), source
    return Config(
        **{**found.values, **above.values},
        sources={**found.sources, **above.sources},
        remarks=(file,) if isinstance(file, str) else (),
    )


def _named_file(named: str, source: str) -> SettingsFile | None:
    if named == OFF:
        return None
    try:
        return read_file(Path(named))
    except ConfigError as exc:
        where = "config= in code" if source == "code" else source.partition(" ")[2]
        raise ConfigError(f"{where}: {exc}") from exc


def _own_name(code: Mapping[str, Any] | None) -> str:
    """The name that a Service has in code, under which a file may have settings for it alone."""
    name = (code or {}).get("server_name")
    return name if isinstance(name, str) else ""


def parse_flags(argv: Sequence[str]) -> dict[str, str]:
    """Texts of the flags in `argv` by setting name; repeated list flags are joined by commas.

    Raises:
        ConfigError: A flag is unknown (the text gives the nearest known one) or lacks
            its value, or an argument is no flag at all.
    """
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise ConfigError(f"unexpected argument {excerpt(word)}: only flags are understood here")
        head, equals, value = word.partition("=")
        name = head.lstrip("-").replace("-", "_")
        setting = _SETTINGS.get(name)
        if setting is None:
            near = did_you_mean(name, list(_SETTINGS))
            near = re.sub(r"'(\w+)'", lambda match: flag_name(match[1]), near)
            raise ConfigError(f"unknown flag {shortened(head)}{near}")
        if not equals:
            # A value never starts with two dashes: taking one would swallow the next flag.
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{setting.flag} needs a value ({setting.kind.metavar})")
            value = rest.pop(0)
        if setting.kind.repeated and name in flags:
            value = f"{flags[name]},{value}"
        flags[name] = value
    return flags


# Kubelet sets these in every container for each Service of the namespace
# (docker-links compatible): NAME_SERVICE_HOST, NAME_SERVICE_PORT[_PORTNAME],
# NAME_PORT, NAME_PORT_80_TCP[_PROTO|_PORT|_ADDR].
_KUBERNETES_LINK = re.compile(
    r"MICRO(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


# Variables that go-micro 1.x reads but has no flags for (`profile` has one under another name).
_GO_MICRO_ONLY = frozenset(
    {
        "MICRO_DEBUG_PROFILE",
        "MICRO_PLUGIN",
        "MICRO_PROXY",
        "MICRO_PROXY_ADDRESS",
        "MICRO_ROUTER",
        "MICRO_ROUTER_ADDRESS",
    }
)


def without_effect(config: Config, environ: Mapping[str, str] | None = None) -> list[str]:
    """go-micro's settings that were given but do nothing here: `environment MICRO_BROKER`, for the log.

    Manifests of go-micro services set them; a service that moves to pymicro starts with them unchanged.
    """
    environ = os.environ if environ is None else environ
    given = [
        config.source(name)
        for name, setting in _SETTINGS.items()
        if setting.ignored and config.source(name) != "default"
    ]
    return given + [f"environment {name}" for name in sorted(_GO_MICRO_ONLY) if environ.get(name)]


def unknown_environment(environ: Mapping[str, str] | None = None) -> list[str]:
    """Unknown `MICRO_*` variables that Kubernetes did not make, with a hint each.

    They are for the log, never an error: a user who names a Kubernetes Service `micro`
    gets a dozen of them.
    """
    environ = os.environ if environ is None else environ
    known = [setting.variable for setting in _SETTINGS.values()]
    return [
        f"{name} is no setting{did_you_mean(name, known)}"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in known
        and name != SERVICE_VARIABLE
        and name not in _GO_MICRO_ONLY
        and not _KUBERNETES_LINK.fullmatch(name)
    ]


def render(config: Config) -> str:
    """The output of `--print-config`: name, value and source of each setting, in columns."""
    rows = [
        (name, setting.kind.show(getattr(config, name)), config.source(name))
        for name, setting in _SETTINGS.items()
        if not (setting.ignored and config.source(name) == "default")
    ]
    rows = [(name, value or "-", source) for name, value, source in rows]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{n:<{wide[0]}}  {v:<{wide[1]}}  {s}".rstrip() for n, v, s in rows)

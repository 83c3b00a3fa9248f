"""Every setting as a flag of a command, and a help page that groups them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pymicro.base.tracebacks import show_all_frames
from pymicro.cli.report import Session
from pymicro.settings import plugins
from pymicro.settings.config import Setting, settings

__all__ = [
    "SettingsCommand",
    "debug_option",
    "is_setting",
    "settings_argv",
    "settings_by_group",
]

F = TypeVar("F", bound=Callable[..., Any])

_SERVING = "Settings for serving"
_OTHER = "Other settings"

# A setting in none of these groups is in the last group of every help page.
_GROUPS = {
    "Settings for finding nodes": (
        "registry",
        "registry_address",
        "registry_namespace",
        "registry_user",
        "registry_password",
        "registry_tls_ca",
        "registry_tls_cert",
        "registry_tls_key",
        "selector",
        "balancer",
        "subset_size",
        "zone",
    ),
    "Settings for calls": (
        "transport",
        "client_request_timeout",
        "client_first_wait",
        "client_retries",
        "outlier_ejection",
        "slow_start",
        "keepalive",
        "max_message_size",
        "max_sent_message_size",
    ),
    _SERVING: (
        "server_name",
        "server_version",
        "server_id",
        "server_metadata",
        "server_address",
        "server_advertise",
        "server",
        "registry_advertise",
        "register_ttl",
        "register_interval",
        "drain_delay",
        "stop_grace",
        "max_connection_age",
        "max_concurrent_calls",
        "handler_threads",
        "forward_metadata",
        "loop",
    ),
    "Settings for TLS, and for who may call": (
        "tls_cert",
        "tls_key",
        "tls_ca",
        "tls_dir",
        "tls_bundle",
        "client_tls",
        "tls_server_name",
        "tls_client_certificates",
        "tls_plain_address",
        "allow",
        "authorization",
        "reflection",
    ),
    "Settings for who operates it": ("config", "metrics", "tracing", "admin_address", "ready_after"),
    "Settings for the log": ("log_level", "log_format", "access_log", "loop_lag", "debug_errors"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
# go-micro's settings that offer no choice here.
_HIDDEN = ("client", "server")

_PLUGINS = {"registry": plugins.REGISTRIES, "selector": plugins.SELECTORS, "balancer": plugins.BALANCERS}

_FLAGS = "pymicro.flags"
_EPILOG = (
    "A setting is an environment variable too (--registry-address is MICRO_REGISTRY_ADDRESS), "
    "and may stand in pymicro.toml (registry_address)."
)


class _SettingOption(click.Option):
    """The flag of one setting. It keeps its text for `config.load`, which parses it."""

    def __init__(self, setting: Setting) -> None:
        default = setting.kind.show(setting.default)
        super().__init__(
            [setting.flag],
            metavar=setting.kind.metavar,
            multiple=setting.kind.repeated,
            help=setting.help + (f"  [{default}]" if default else ""),
            hidden=setting.ignored or setting.name in _HIDDEN,
            expose_value=False,
            callback=_keep,
        )
        self.setting = setting

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The values, if the setting offers a choice."""
        kind = self.setting.kind.metavar
        group = _PLUGINS.get(self.setting.name)
        values = plugins.known(group) if group else kind.split("|") if "|" in kind else []
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def is_setting(param: click.Parameter) -> bool:
    """Whether an option of a command is the flag of a setting."""
    return isinstance(param, _SettingOption)


def settings_by_group() -> dict[str, list[Setting]]:
    """The settings that have an effect, grouped as on the help pages."""
    grouped: dict[str, list[Setting]] = {group: [] for group in (*_GROUPS, _OTHER)}
    for setting in settings().values():
        if not setting.ignored and setting.name not in _HIDDEN:
            grouped[_GROUP_OF.get(setting.name, _OTHER)].append(setting)
    return {group: found for group, found in grouped.items() if found}


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert isinstance(param, _SettingOption)
    texts = value if param.setting.kind.repeated else () if value is None else (value,)
    ctx.meta.setdefault(_FLAGS, []).extend(f"{param.setting.flag}={text}" for text in texts or ())


def settings_argv(ctx: click.Context) -> list[str]:
    """The flags of settings given to this command, in the form that `config.load` takes."""
    return list(ctx.meta.get(_FLAGS, ()))


class SettingsCommand(click.Command):
    """A command that accepts every setting as a flag.

    Its help shows the command's own options first, then the settings in groups;
    those for serving only if `serving` is set.
    """

    def __init__(self, *args: Any, serving: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._serving = serving
        self.params.extend(_SettingOption(setting) for setting in settings().values())
        debug_option(self)
        self.epilog = _EPILOG

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of options to the help page."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        sections.update((group, []) for group in (*_GROUPS, _OTHER))
        for param in self.get_params(ctx):
            # The text above already explains the arguments.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            title = "Options"
            if isinstance(param, _SettingOption):
                title = _GROUP_OF.get(param.setting.name, _OTHER)
                if group := _PLUGINS.get(param.setting.name):
                    record = (record[0], f"{record[1]}  (one of {', '.join(plugins.known(group))})")
            sections[title].append(record)
        if not self._serving:
            del sections[_SERVING]
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if not self._serving:
            formatter.write_paragraph()
            formatter.write_text("Settings for serving are accepted too: see 'pymicro run --help'.")


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    session = ctx.find_object(Session)
    if value and session is not None:
        session.debug = True
        show_all_frames()


def debug_option(command: F) -> F:
    """`--debug`, which may stand before or after the subcommand."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )(command)

"""What of the papers is made from the code: settings, commands, manifests, the chart's part, the dashboard.

`python -m scripts.papers --write` puts it there (`make papers`); a test holds the papers to it.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click

from pymicro.cli.app import command_line
from pymicro.cli.flags import is_setting, settings_by_group
from pymicro.settings.config import Setting, settings
from pymicro.settings.kinds import SECRET
from scripts.dashboard import dashboard

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- {}: written by `make papers` -->\n"
END = "<!-- end of {} -->\n"

GREETER = """\
# Written by `make papers`. In examples/greeter this command prints it, and more; for a service
# of yours it does the same:
#
#   {}

"""

# Defaults that are worked out, where the value on this machine would mislead.
WORKED_OUT = {"handler_threads": "min(32, cores + 4)"}

# Options of every command, which the page tells of once.
EVERYWHERE = ("--help", "--debug")


def default_of(setting: Setting) -> str:
    """As it stands in a table."""
    default = WORKED_OUT.get(setting.name) or setting.kind.show(setting.default)
    return f"`{default}`" if default else ""


def table() -> str:
    """The settings in the groups of the help pages, with flag, variable, kind of value and default."""
    parts = []
    for group, found in settings_by_group().items():
        parts.append(
            f"### {group}\n\n| flag | variable | value | default | what it is |\n|---|---|---|---|---|\n"
        )
        for setting in found:
            value = setting.kind.metavar.replace("|", " or ")
            parts.append(
                f"| `{setting.flag}` | `{setting.variable}` | {value} "
                f"| {default_of(setting)} | {setting.help} |\n"
            )
        parts.append("\n")
    return "".join(parts)


def commands() -> str:
    """Each command with its arguments and its own options."""
    context = click.Context(command_line, info_name="pymicro")
    parts = []
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        parts.append(_command(command, click.Context(command, info_name=name, parent=context)))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join(part for part in command.collect_usage_pieces(context) if part != "[OPTIONS]")
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [
        f"## {context.command_path}",
        "",
        "```text",
        f"{context.command_path} [options] {usage}".rstrip(),
    ]
    lines += ["```", "", text, ""]
    records = [
        param.get_help_record(context)
        for param in command.get_params(context)
        if isinstance(param, click.Option) and not is_setting(param) and param.opts[-1] not in EVERYWHERE
    ]
    rows = [f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in records if record]
    if rows:
        lines += ["| option | |", "|---|---|", *rows, ""]
    if any(map(is_setting, command.get_params(context))):
        lines += ["It takes every [setting](configuration.md) as a flag.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    # Two brackets in a row are a link in Markdown.
    return " ".join(text.split()).replace("] [", "; ").replace("|", "\\|")


def greeter(*names: str, more: Iterable[str] = ()) -> str:
    """Of what `pymicro manifest` prints for the greeter the documents `Kind name`, as a file of deploy/."""
    argv = ["pymicro", "manifest", "server.py", "--image", "pymicro-greeter:dev", *more]
    printed = subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=ROOT / "examples/greeter",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found = {_name(document): document for document in printed.split("---\n")}
    return GREETER.format(" ".join(argv)) + "---\n".join(found[name] for name in names)


def _name(document: str) -> str:
    """`Kind name` of a manifest."""
    kind, name = (re.search(rf"^{key}: (.*)", document, re.MULTILINE) for key in ("kind", "  name"))
    assert kind is not None
    assert name is not None
    return f"{kind[1]} {name[1]}"


CHART = "deploy/helm/pymicro-service"
MANIFESTS = "pymicro/cli/data/manifests"
# Settings that other values of the chart stand for.
CHARTS_OWN = {
    "server_name",
    "server_version",
    "server_address",
    "admin_address",
    "registry_advertise",
    "drain_delay",
    "stop_grace",
    "zone",
}


def chart_schema() -> str:
    """The schema of the chart's values: written by hand, but for the settings of pymicro."""
    schema = json.loads((ROOT / CHART / "values.schema.json").read_text())
    schema["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            setting.name: {"description": setting.help, "type": ["string", "number", "boolean"]}
            for setting in settings().values()
            # A password is no value of a chart: whoever may read the release reads it.
            if setting.name not in CHARTS_OWN and setting.kind is not SECRET and not setting.ignored
        },
    }
    return json.dumps(schema, indent=2) + "\n"


def charts_copy(file: str) -> str:
    """A manifest as the chart has it: Helm takes no file from outside of a chart."""
    return (ROOT / MANIFESTS / "rbac-self-register" / file).read_text()


# Which part of which page is made by what; without the name of a part, all of it.
MADE = {
    "docs/configuration.md": ("settings", table),
    "docs/command-line.md": ("commands", commands),
    "deploy/greeter/server.yaml": ("", partial(greeter, "Deployment greeter")),
    "deploy/greeter/disruption-budget.yaml": ("", partial(greeter, "PodDisruptionBudget greeter")),
    "deploy/greeter/network-policy.yaml": ("", partial(greeter, "NetworkPolicy greeter")),
    "deploy/greeter-self-register/account.yaml": (
        "",
        partial(
            greeter, "ServiceAccount greeter", "RoleBinding greeter-self-register", more=("--mode", "patch")
        ),
    ),
    "deploy/greeter-mtls/account.yaml": (
        "",
        partial(greeter, "ServiceAccount greeter", more=("--tls", "secret")),
    ),
    "deploy/grafana/pymicro.json": ("", dashboard),
    f"{CHART}/values.schema.json": ("", chart_schema),
    **{
        f"{CHART}/files/{file}": ("", partial(charts_copy, file))
        for file in ("role.yaml", "admission-policy.yaml", "admission-policy-unmarked.yaml")
    },
}


def made(page: str, text: str) -> str:
    """The text of a page with its part as it should be."""
    what, make = MADE[page]
    if not what:
        return make()
    begin, end = BEGIN.format(what), END.format(what)
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page} lacks the line {begin!r} or {end!r}")
    return f"{head}{begin}{make()}{end}{tail}"


def main(arguments: Iterable[str]) -> None:
    """Write the pages, or print what would be written."""
    for page in MADE:
        path = ROOT / page
        text = made(page, path.read_text())
        if "--write" in arguments:
            path.write_text(text)
        else:
            print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])

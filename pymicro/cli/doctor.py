"""`pymicro doctor`: why a service cannot be found or reached."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pymicro.cli.clients import asks_for_log, make_client, read_seconds, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import EXIT_FAILED, InputError, dump, on_terminal, printable, say, utf8
from pymicro.cli.service_name import SERVICE_NAME

if TYPE_CHECKING:
    from pymicro.base.findings import Finding

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
_MARKS = {"ok": "✓", "note": "!", "problem": "✗"}
_ASCII_MARKS = {"ok": "+", "note": "!", "problem": "x"}
_WIDEST = max(map(len, _COLOURS))
# Seconds. The API server ends a watch by itself after half an hour to an hour (--min-request-timeout).
_LONGEST_WATCH = 1500.0
# Width of the column that names the check; a pod's name is longer, and then stands out.
_CHECK = 24


@click.command("doctor", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, required=False, shell_complete=complete_services)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Lines for people (default), or a JSON object.",
)
@click.option(
    "--watch",
    default="0",
    metavar="DURATION",
    help="Hold the registry's watches open for so long, such as 2m, and say whether something cuts them.",
)
@click.pass_context
def doctor(ctx: click.Context, service: str | None, output: str, watch: str) -> int:
    """Say why SERVICE cannot be found or reached.

    It looks at the settings. Then it asks the registry all that it can tell (on
    Kubernetes: credentials, the API server, rights, each pod), looks up names in the
    DNS if they are used, and calls the first 20 nodes. Of each that has an admin port it
    asks how its registration and the watches of its registry fare. Without SERVICE it looks
    only at what concerns all services.

    Run it where the client runs, with the client's settings. In a client's pod:
    kubectl exec POD -- python -m pymicro doctor SERVICE.

    Balancers and proxies before the API server may cut watches on which nothing comes,
    after 35 s or some minutes: --watch 2m finds out. It takes as long.

    Exit code 0 if all is well (a note is no fault), 1 if there is a problem, 2 for
    bad input. With -o json an object with service, ok and findings. A finding has
    check, level (ok, note or problem), text and fix.
    """
    seconds = read_seconds("--watch", watch)
    if seconds > _LONGEST_WATCH:
        raise InputError(f"--watch: {watch} is longer than the API server lets a watch last; 25m is the most")
    return run(_doctor(service or "", output, settings_argv(ctx), seconds))


async def _doctor(service: str, output: str, argv: Sequence[str], watch: float) -> int:
    from pymicro.cli.doctor_checks import check

    client = make_client(argv, waits=True)
    if not asks_for_log(client.config):
        # The doctor reports what goes wrong itself, and only once.
        logging.getLogger("pymicro").setLevel(logging.CRITICAL)
        # But a credential plug-in may ask a person to sign in.
        logging.getLogger("pymicro.kube.plugin").setLevel(logging.WARNING)
    findings: list[Finding] = []
    async for finding in check(client, service, watch=watch):
        findings.append(finding)
        if output == "text":
            _show(finding)
    problems = sum(finding.level == "problem" for finding in findings)
    if output == "json":
        say(dump(_as_json(service, findings), pretty=on_terminal()))
    else:
        _show_verdict(problems)
    return EXIT_FAILED if problems else 0


def _as_json(service: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "service": service,
        "ok": all(finding.level != "problem" for finding in findings),
        "findings": [
            {"check": finding.check, "level": finding.level, "text": finding.text, "fix": finding.fix}
            for finding in findings
        ],
    }


def _show(finding: Finding) -> None:
    """Print a finding as soon as it is known, with its fix below."""
    if on_terminal():
        from pymicro.cli.terminal import console_of, marked

        marks, arrow = (_MARKS, "→") if utf8(sys.stdout) else (_ASCII_MARKS, "->")
        mark, colour = marks[finding.level], _COLOURS[finding.level]
        drawn = marked(mark, colour, finding.check, finding.text, finding.fix, arrow=arrow)
        console_of(sys.stdout).print(drawn)
        return
    check, text, fix = (
        printable(part).replace("\n", "\n" + " " * (_WIDEST + 2))
        for part in (finding.check, finding.text, finding.fix)
    )
    say(f"{finding.level:<{_WIDEST}}  {check:<{_CHECK}}  {text}")
    if fix:
        say(f"{'':<{_WIDEST}}  {fix}")


def _show_verdict(problems: int) -> None:
    text = f"{problems} problem{'s' * (problems != 1)}" if problems else "all is well"
    if on_terminal():
        from pymicro.cli.terminal import console_of, plain_text

        colour = _COLOURS["problem" if problems else "ok"]
        console_of(sys.stdout).print(plain_text(text, f"bold {colour}"))
    else:
        say(text)

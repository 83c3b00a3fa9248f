"""`pymicro completion`: the script by which a shell completes pymicro's command lines."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from pymicro.cli.completing import VARIABLE
from pymicro.cli.flags import debug_option
from pymicro.cli.report import say

__all__ = ["completion"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete pymicro's command lines.

    \b
    bash, in ~/.bashrc (4.4 or newer):  eval "$(pymicro completion bash)"
    zsh, in ~/.zshrc after compinit:    eval "$(pymicro completion zsh)"
    fish, once: pymicro completion fish > ~/.config/fish/completions/pymicro.fish

    It completes commands and flags, files for 'run', and names of services, methods
    and symbols. For the names it asks the registry in force, and a node if the
    record does not say enough. If there is no answer within a second, nothing is
    completed.
    """
    found = get_completion_class(shell)
    assert found is not None, "one of click's own"
    # Skip the class's own method: bash's looks for a bash to complain about.
    script = ShellComplete.source(found(ctx.find_root().command, {}, "pymicro", VARIABLE))
    say(script.strip("\n"))

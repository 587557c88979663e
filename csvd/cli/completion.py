"""``csvd completion``: what makes a shell complete csvd's commands; click's own."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands and options.

    \b
    Examples:
      csvd completion bash > ~/.local/share/bash-completion/completions/csvd
      csvd completion zsh > ~/.zfunc/_csvd
      csvd completion fish > ~/.config/fish/completions/csvd.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "csvd", "_CSVD_COMPLETE").source())

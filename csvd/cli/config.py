"""``csvd config``: check a configuration file, print an example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from csvd.cli.effective import effective_lines
from csvd.cli.options import asks_daemon, json_option
from csvd.cli.output import plain, print_json

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="Check and show a node's configuration.")
def config() -> None:
    """Check a node's configuration, show the one that it has, or print an example of one."""


@config.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def check(context: click.Context, path: Path, as_json: bool) -> None:
    """Check a configuration file: print "ok", or every problem of it and exit 1.

    Secret files that it names are looked at, too; disks are not.

    \b
    Examples:
      csvd config check /etc/csvd/csvd.toml
    """
    from csvd.config.load import ConfigProblems, load

    problems = []
    try:
        load(path)
    except ConfigProblems as error:
        problems = error.problems
    if as_json:
        faces = [{"what": one.what, "where": one.where, "why": one.why, "hint": one.hint} for one in problems]
        print_json({"ok": not problems, "problems": faces})
    elif problems:
        for problem in problems:
            click.echo(plain(str(problem)), err=True)
    else:
        click.echo("ok")
    context.exit(1 if problems else 0)


@config.command()
@asks_daemon
def show(client: ControlClient, as_json: bool) -> None:
    """Show the configuration that a running node has, and where its targets are from.

    What was changed while the node ran goes before what its file says. Secrets are not shown, only where they are.

    \b
    Examples:
      csvd config show
      csvd config show --json | jq .configuration.target
    """
    answer = client.configuration()
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(effective_lines(answer)))


@config.command()
def example() -> None:
    """Print a configuration with every key, its meaning and its default. It passes the check.

    \b
    Examples:
      csvd config example > csvd.toml
    """
    from csvd.config.text import example as text

    click.echo(text(), nl=False)

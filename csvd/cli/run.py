"""``csvd run``: the daemon of a node."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(short_help="Run a node of a cluster.")
@click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The node's configuration; csvd config example prints one.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warn", "error"]),
    help="What the log on stderr tells.  [default: node.log_level of FILE]",
)
def run(config_path: Path, log_level: str | None) -> None:
    """Run a node, in the foreground, until SIGINT or SIGTERM.

    Prints a line "ready …" once everything is up, and tells systemd so where it asks. At the end it answers what is
    under way, stops its guests, flushes, and exits 0; a second signal ends it at once.

    \b
    Examples:
      csvd config example > csvd.toml && csvd config check csvd.toml
      csvd run --config csvd.toml
      csvd run --config /etc/csvd/csvd.toml --log-level debug
    """
    from csvd.config.load import complete, read

    source = read(config_path)
    config = complete(source)

    from csvd.daemon import run as run_daemon

    sys.exit(run_daemon(source, config, log_level=log_level or config.node.log_level))

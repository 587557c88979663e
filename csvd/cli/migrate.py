"""``csvd migrate``, also ``csvd vm migrate``: move a running guest to another node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, tell
from csvd.cli.progress import ProgressBar, report_lines
from csvd.errors import CsvdError

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

POLL_S: Final = 0.1


class MigrationNotDone(CsvdError):
    """A migration that was watched ended without the guest at its destination."""


@click.command(short_help="Move a running guest to another node.")
@click.argument("name")
@click.option("--to", required=True, metavar="NODE", help="The node that is to run it.")
@click.option("--detach", is_flag=True, help="Return as soon as it has begun; csvd vm show NAME tells the rest.")
@asks_daemon
def migrate(client: ControlClient, as_json: bool, name: str, to: str, detach: bool) -> None:
    """Move a running guest to another node, from whatever node it is on.

    Shows its progress on stderr and prints a report at the end. Exits 1 when the guest was not moved: it goes on where
    it was. Ctrl-C ends the watching only; csvd vm cancel NAME calls the migration off.

    \b
    Examples:
      csvd migrate web --to node2
      csvd migrate web --to node2 --json | jq .report.downtime_ms
    """
    progress = client.migrate(name, to)
    if detach:
        tell(progress, f"guest {name} is on its way to {to}", as_json=as_json)
        return
    progress = watch(client, name, progress)
    report = progress["report"]
    if as_json:
        print_json(progress)
    else:
        click.echo("\n".join(report_lines(report)))
    if report["state"] != "completed":
        raise MigrationNotDone(f"the migration was not completed: it {report['state']}", where=f"guest {name}")


def watch(client: ControlClient, name: str, progress: dict[str, Any]) -> dict[str, Any]:
    """Show a migration's progress until it is over; give the last of it, with the report."""
    bar = ProgressBar()
    started = progress["migration_id"]
    try:
        while progress["report"] is None:
            bar.show(progress)
            time.sleep(POLL_S)
            progress = client.migration(name)
            if progress["migration_id"] != started:
                raise MigrationNotDone("another migration has begun since", where=f"guest {name}")
    except KeyboardInterrupt:
        bar.clear()
        click.echo(f"the migration goes on; csvd vm cancel {name} calls it off", err=True)
        raise
    bar.show(progress)
    bar.clear()
    return progress

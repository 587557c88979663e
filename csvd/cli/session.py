"""``csvd session``: the iSCSI sessions of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The iSCSI sessions of a node.")
def session() -> None:
    """The iSCSI sessions of the node that is asked."""


@session.command("ls")
@asks_daemon
def list_sessions(client: ControlClient, as_json: bool) -> None:
    """List the sessions.

    \b
    Examples:
      csvd session ls
      csvd session ls --json
    """
    sessions = client.sessions()
    if as_json:
        print_json({"sessions": sessions})
        return
    rows = [(one["initiator"], one["target"], one["tsih"], ", ".join(one["peers"]), one["tasks"]) for one in sessions]
    click.echo(table(("INITIATOR", "TARGET", "TSIH", "FROM", "TASKS"), rows))

"""``csvd portal``: where a node listens for initiators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="Where a node listens for initiators.")
def portal() -> None:
    """The portals of the node that is asked, and those of the others in its cluster.

    csvd target create and set change those of a node's own targets; cluster.portals in the configuration of a node says
    where it listens for the cluster's.
    """


@portal.command("ls")
@asks_daemon
def list_portals(client: ControlClient, as_json: bool) -> None:
    """List the portals.

    \b
    Examples:
      csvd portal ls
    """
    portals = client.portals()
    if as_json:
        print_json({"portals": portals})
        return
    rows = [
        (
            one["address"],
            one["portal_group_tag"],
            one["portal"],
            one.get("node", "this node"),
            one.get("state", ""),
            ", ".join(one["targets"]),
        )
        for one in portals
    ]
    header = ("ADDRESS", "GROUP", "CONFIGURED", "NODE", "STATE", "TARGETS")
    click.echo(table(header, rows) if rows else "no portals: no target is served yet")

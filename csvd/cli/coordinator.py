"""``csvd coordinator``: which node coordinates which shared disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table, tell

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="Which node coordinates which shared disk.")
def coordinator() -> None:
    """The coordinator of a shared disk decides for all nodes. When it dies, another one takes over."""


@coordinator.command("ls")
@asks_daemon
def list_coordinators(client: ControlClient, as_json: bool) -> None:
    """List the shared disks with their coordinators.

    \b
    Examples:
      csvd coordinator ls
      csvd coordinator ls --json
    """
    disks = client.disks()
    if as_json:
        print_json({name["name"]: {"node": name["coordinator"], "epoch": name["epoch"]} for name in disks})
        return
    rows = [
        (one["name"], one["coordinator"], one["epoch"], "by hand" if one["is_pinned"] else "by the cluster")
        for one in disks
    ]
    click.echo(table(("DISK", "COORDINATOR", "EPOCH", "CHOSEN"), rows) if rows else "no disks")


@coordinator.command()
@click.argument("disk")
@click.argument("node")
@asks_daemon
def move(client: ControlClient, as_json: bool, disk: str, node: str) -> None:
    """Have another node coordinate a disk. Nothing fails meanwhile, and nothing waits longer than a moment.

    It stays there: the cluster moves it only when that node dies or is drained.

    \b
    Examples:
      csvd coordinator move system node2
    """
    moved = client.move_coordinator(disk, node)
    tell(moved, f"{node} coordinates {disk}, epoch {moved['epoch']}", as_json=as_json)

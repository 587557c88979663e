"""``csvd fence``: keep a node off the shared disks, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.command(short_help="Keep a node off the shared disks.")
@click.argument("node")
@click.option("--force", is_flag=True, help="Also where the node is alive: it stops what it is at, and comes back.")
@click.option(
    "--powered-off",
    "is_powered_off",
    is_flag=True,
    help="You have switched it off, and see to it that it stays so until this is done. Where it was not, data is lost.",
)
@asks_daemon
def fence(client: ControlClient, as_json: bool, node: str, force: bool, is_powered_off: bool) -> None:
    """Fence a node on every shared disk, now, and tell the proof. The cluster does it by itself when a node dies; this
    is for those cases in which it can not tell, and waits.

    \b
    Examples:
      csvd fence node3
      csvd fence node3 --force
      csvd fence node3 --powered-off
    """
    fenced = client.fence(node, force=force, is_powered_off=is_powered_off)
    if as_json:
        print_json(fenced)
        return
    for disk, proof in fenced["proofs"].items():
        told = f"{proof['kind']}: {proof['seen']}" if proof is not None else "it had no session there"
        click.echo(plain(f"{disk}: {node} is off: {told}"))
    if not fenced["proofs"]:
        click.echo("there are no shared disks")

"""``csvd node``: the nodes of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csvd.cli.key import name_secrets
from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json, table, tell

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The nodes of the cluster.")
def node() -> None:
    """The nodes of the cluster: csvd init makes the first, csvd join each further one.

    NODE is a node's name, or the id that it joined by, which it keeps when it is renamed.
    """


@node.command("ls")
@asks_daemon
def list_nodes(client: ControlClient, as_json: bool) -> None:
    """List the nodes.

    \b
    Examples:
      csvd node ls
      csvd node ls --json | jq -r '.nodes[].id'
    """
    nodes = client.nodes()
    if as_json:
        print_json({"nodes": nodes})
        return
    rows = [
        (one["name"], one["id"], one["number"], one["address"], _role(one), one["link"], _state(one)) for one in nodes
    ]
    click.echo(table(("NODE", "ID", "NUMBER", "ADDRESS", "ROLE", "LINK", "STATE"), rows))


@node.command()
@click.argument("name", metavar="NODE")
@asks_daemon
def show(client: ControlClient, as_json: bool, name: str) -> None:
    """Show one node.

    \b
    Examples:
      csvd node show node2
    """
    found = client.node(name)
    if as_json:
        print_json(found)
        return
    rows = [
        ("name", found["name"]),
        ("id", found["id"]),
        ("number", found["number"]),
        ("address", found["address"]),
        ("role", _role(found)),
        ("state", _state(found)),
        ("link", found["link"]),
        *([("trouble", plain(found["trouble"]))] if found["trouble"] else []),
        *(("certificate key", key) for key in found["fingerprints"]),
    ]
    click.echo("\n".join(f"{title:<16}{value or '-'}" for title, value in rows))


@node.command()
@click.argument("name", metavar="NODE")
@click.argument("new_name", metavar="NEW-NAME")
@asks_daemon
def rename(client: ControlClient, as_json: bool, name: str, new_name: str) -> None:
    """Change the name that a node is shown by; node.name in its configuration stays what it joined by.

    \b
    Examples:
      csvd node rename node2 rack1-left
    """
    tell(client.set_node(name, {"name": new_name}), f"node {name} is called {new_name} now", as_json=as_json)


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--force", is_flag=True, help="Also a node that has guests; they stay in the register.")
@asks_daemon
def evict(client: ControlClient, as_json: bool, name: str, force: bool) -> None:
    """Take a node out of the cluster for good, alive or dead: it votes no more, and its keys are no good any more.

    Needs a majority of the nodes that vote. To come back, the node needs a new state directory, and joins anew.

    The secrets on the system disk are sealed with a new key, and those that the node may know are named.

    \b
    Examples:
      csvd node evict node2
    """
    evicted = client.evict_node(name, force=force)
    tell(evicted, f"node {name} is not of the cluster any more", as_json=as_json)
    if evicted["trouble"]:
        hint = "csvd key rotate, once that is mended"
        click.echo(f"it has the key of the cluster's secrets still: {plain(evicted['trouble'])} ({hint})", err=True)
    elif not as_json:
        click.echo(f"secrets are sealed with the new key {evicted['key']}, which it does not have")
    if not as_json:
        name_secrets("it", evicted["secrets"])


@node.command()
@click.argument("name", metavar="NODE")
@asks_daemon
def drain(client: ControlClient, as_json: bool, name: str) -> None:
    """Let other nodes do what a node does: it gives up its offices, and initiators are told to prefer the others.

    \b
    Examples:
      csvd node drain node2
    """
    tell(client.set_node(name, {"is_draining": True}), f"node {name} is being drained", as_json=as_json)


@node.command()
@click.argument("name", metavar="NODE")
@asks_daemon
def undrain(client: ControlClient, as_json: bool, name: str) -> None:
    """Let a node that was drained do its part again.

    \b
    Examples:
      csvd node undrain node2
    """
    tell(client.set_node(name, {"is_draining": False}), f"node {name} is not drained any more", as_json=as_json)


def _role(one: dict[str, Any]) -> str:
    kind = "witness" if one["is_witness"] else "node"
    votes = kind if one["is_voter"] else f"{kind}, learns"
    return f"{votes}, leads" if one["is_coordinator"] else votes


def _state(one: dict[str, Any]) -> str:
    return "draining" if one["is_draining"] else ""

"""``csvd target``: the iSCSI targets of a node and of its cluster, and how they are changed while they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json, table, tell
from csvd.cli.rights_options import chap_keys, chap_options
from csvd.config.targets import ACCESS_STATES

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The iSCSI targets of a node and its cluster.")
def target() -> None:
    """The iSCSI targets of the node that is asked, and of its cluster. What is changed here is kept over a restart.

    A target of the cluster is changed through any node, and is the same at all of them. What each node has of its own,
    as portals, is in its configuration.
    """


@target.command()
@click.argument("name")
@click.option("--local", "is_local", is_flag=True, help="Of this node alone, in a cluster, too.")
@click.option("--alias", metavar="TEXT", help="A name for people.")
@click.option(
    "--portal", "portals", multiple=True, metavar="HOST:PORT", help="Where to listen.  [default: as the first target]"
)
@click.option("--tag", type=int, metavar="N", help="The tag of its portal group.  [default: the node's]")
@click.option("--initiator", "initiators", multiple=True, metavar="IQN", help="Who may log in.  [default: all]")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="From where.  [default: anywhere]")
@click.option("--queue-depth", type=int, metavar="N", help="Commands that a session may have outstanding.")
@click.option("--access-state", type=click.Choice(ACCESS_STATES), help="ALUA: the state of its portal group.")
@click.option("--redirect", metavar="HOST:PORT", help="Send logins on to another portal.")
@chap_options
@asks_daemon
def create(
    client: ControlClient,
    as_json: bool,
    name: str,
    is_local: bool,
    alias: str | None,
    portals: Sequence[str],
    tag: int | None,
    initiators: Sequence[str],
    networks: Sequence[str],
    queue_depth: int | None,
    access_state: str | None,
    redirect: str | None,
    **chap: Any,
) -> None:
    """Make a target; it has no logical units yet: csvd lun add.

    In a cluster with a system disk it is the cluster's, served by all nodes.

    \b
    Examples:
      csvd target create iqn.2026-11.org.example:backup
      csvd target create iqn.2026-11.org.example:scratch --local
      csvd target create iqn.2026-11.org.example:backup --portal 10.0.0.1:3260 --network 10.0.0.0/8
      csvd target create iqn.2026-11.org.example:backup --chap-user joe --chap-secret-file joe.secret
    """
    keys = _keys(alias, portals, tag, initiators, networks, queue_depth, access_state, redirect, chap)
    made = client.create_target(name, keys, scope="node" if is_local else "")
    where = ", ".join(made["addresses"])
    tell(made, f"target {made['name']} is served at {where or 'no portal yet'}", as_json=as_json)


@target.command("set")
@click.argument("name")
@click.option("--alias", metavar="TEXT", help="A name for people.")
@click.option("--portal", "portals", multiple=True, metavar="HOST:PORT", help="Where to listen, instead of before.")
@click.option("--tag", type=int, metavar="N", help="The tag of its portal group.")
@click.option("--initiator", "initiators", multiple=True, metavar="IQN", help="Who may log in, instead of before.")
@click.option("--any-initiator", is_flag=True, help="Let in all, unless there is an access list.")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="From where, instead of before.")
@click.option("--any-network", is_flag=True, help="From anywhere.")
@click.option("--queue-depth", type=int, metavar="N", help="Commands that a session may have outstanding.")
@click.option("--access-state", type=click.Choice(ACCESS_STATES), help="ALUA: the state of its portal group.")
@click.option("--redirect", metavar="HOST:PORT", help="Send logins on to another portal.")
@click.option("--no-redirect", is_flag=True, help="Serve logins here again.")
@chap_options
@click.option("--no-chap", is_flag=True, help="Demand no CHAP.")
@asks_daemon
def set_(
    client: ControlClient,
    as_json: bool,
    name: str,
    alias: str | None,
    portals: Sequence[str],
    tag: int | None,
    initiators: Sequence[str],
    any_initiator: bool,
    networks: Sequence[str],
    any_network: bool,
    queue_depth: int | None,
    access_state: str | None,
    redirect: str | None,
    no_redirect: bool,
    no_chap: bool,
    **chap: Any,
) -> None:
    """Change a target. Sessions that lost their right end; the others go on.

    \b
    Examples:
      csvd target set iqn.2026-11.org.example:backup --alias "nightly backups"
      csvd target set iqn.2026-11.org.example:backup --network 10.1.0.0/16 --no-chap
      csvd target set iqn.2026-11.org.example:backup --access-state standby
    """
    keys = _keys(alias, portals, tag, initiators, networks, queue_depth, access_state, redirect, chap)
    keys |= {
        key: None
        for key, is_asked in (
            ("initiators", any_initiator),
            ("networks", any_network),
            ("chap", no_chap),
            ("redirect", no_redirect),
        )
        if is_asked
    }
    if not keys:
        raise click.UsageError("nothing to change: name an option")
    changed = client.set_target(name, keys)
    tell(changed, f"target {changed['name']} is changed", as_json=as_json)


def _keys(
    alias: str | None,
    portals: Sequence[str],
    tag: int | None,
    initiators: Sequence[str],
    networks: Sequence[str],
    queue_depth: int | None,
    access_state: str | None,
    redirect: str | None,
    chap: dict[str, str | Path | None],
) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "alias": alias,
        "portals": list(portals) or None,
        "portal_group_tag": tag,
        "initiators": list(initiators) or None,
        "networks": list(networks) or None,
        "queue_depth": queue_depth,
        "access_state": access_state,
        "redirect": {"address": redirect} if redirect else None,
        "chap": chap_keys(chap),
    }
    return {key: value for key, value in keys.items() if value is not None}


@target.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="End the sessions that it has.")
@asks_daemon
def rm(client: ControlClient, as_json: bool, name: str, force: bool) -> None:
    """Serve a target no more. Its disks stay as they are.

    \b
    Examples:
      csvd target rm iqn.2026-11.org.example:backup
      csvd target rm iqn.2026-11.org.example:backup --force
    """
    gone = client.remove_target(name, force=force)
    tell(gone, f"target {gone['name']} is removed", as_json=as_json)


@target.command("ls")
@asks_daemon
def list_targets(client: ControlClient, as_json: bool) -> None:
    """List the targets.

    \b
    Examples:
      csvd target ls
    """
    targets = client.targets()
    if as_json:
        print_json({"targets": targets})
        return
    rows = [
        (
            one["name"],
            ", ".join(one["addresses"]),
            one["unit_count"],
            len(one["sessions"]),
            "yes" if one["chap"] else "no",
            _initiators(one),
            one["origin"],
            _served_by(one),
        )
        for one in targets
    ]
    head = ("TARGET", "PORTALS", "LUNS", "SESSIONS", "CHAP", "INITIATORS", "FROM", "SERVED BY")
    click.echo(table(head, rows))


def _served_by(one: dict[str, Any]) -> str:
    if one["scope"] != "cluster":
        return "this node"
    serving = sum(node["serves"] for node in one["nodes"].values())
    return f"{serving} of {len(one['nodes'])} nodes"


def _initiators(one: dict[str, Any]) -> str:
    if one["initiators"] is None and not one["acl_count"]:
        return "all"
    return str(one["acl_count"] + len(one["initiators"] or ()))


@target.command()
@click.argument("name")
@asks_daemon
def show(client: ControlClient, as_json: bool, name: str) -> None:
    """Show a target with its logical units, its access list and its sessions.

    \b
    Examples:
      csvd target show iqn.2026-11.org.example:shared
    """
    face = client.target(name)
    if as_json:
        print_json(face)
    else:
        click.echo("\n".join(_lines(face)))


def _lines(face: dict[str, Any]) -> Iterator[str]:
    from csvd.cli.acl import acl_table
    from csvd.cli.lun import lun_table

    yield plain(f"target {face['name']}  from {face['origin']}")
    if face["alias"]:
        yield plain(f"  alias: {face['alias']}")
    yield plain(f"  portals: {', '.join(face['addresses'])}, group {face['portal_group_tag']}")
    for name, node in face["nodes"].items() if face["scope"] == "cluster" else ():
        rest = "" if node["serves"] else ", does not serve it"
        yield plain(f"  node {name}: {node['state'] or 'no portals yet'}{rest}")
        for what, why in node["troubles"].items():
            yield plain(f"    {what or 'all of the cluster'}: {why}")
    if face["networks"] is not None:
        yield plain(f"  networks: {', '.join(face['networks'])}")
    if face["initiators"] is not None:
        yield plain(f"  initiators: {', '.join(face['initiators']) or 'none'}")
    if face["chap"] is not None:
        mutual = f", mutual {face['chap']['mutual_user']}" if face["chap"]["mutual_user"] else ""
        yield plain(f"  CHAP: {face['chap']['user']}{mutual}")
    if face["redirect"] is not None:
        yield plain(f"  logins are sent on to {face['redirect']['address']}")
    yield f"  queue depth: {face['queue_depth']}, access state: {face['access_state']}"
    yield ""
    yield lun_table(face["luns"]) if face["luns"] else "no logical units"
    if face["acl"]:
        yield ""
        yield acl_table(face["acl"])
    for session in face["sessions"]:
        yield plain(f"session {session['tsih']}: {session['initiator']} from {', '.join(session['peers'])}")

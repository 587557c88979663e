"""``csvd disk``: the disks that the nodes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.options import SIZE, asks_daemon
from csvd.cli.output import plain, print_json, table, tell

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The disks that the nodes share.")
def disk() -> None:
    """The disks that the nodes of the cluster share. The first one is the system disk: the cluster's targets and
    reservations are kept on it."""


@disk.command()
@click.argument("name")
@click.argument("url")
@click.option("--create", "create_bytes", type=SIZE, metavar="SIZE", help="Make the disk first, of this size.")
@click.option("--adopt", is_flag=True, help="Take a disk that was formatted before, with all that is on it.")
@click.option("--force", is_flag=True, help="Format it, whatever is on it.")
@asks_daemon
def add(
    client: ControlClient, as_json: bool, name: str, url: str, create_bytes: int | None, adopt: bool, force: bool
) -> None:
    """Have the nodes share a disk: every node reaches it by the same URL. Its first 16 MiB become the cluster's.

    \b
    Examples:
      csvd disk add system /srv/shared.img --create 100G
      csvd disk add data iscsi://10.0.0.5/iqn.2026-11.org.example:array/0
      csvd disk add data rbd:pool/image --adopt
    """
    if adopt and (force or create_bytes is not None):
        raise click.UsageError("--adopt takes the disk as it is: it goes with neither --create nor --force.")
    added = client.add_disk(name, url, create_bytes=create_bytes, adopt=adopt, force=force)
    what = "the system disk" if added["is_system"] else "a shared disk"
    tell(added, f"{name} is {what} of the cluster: {added['url']}", as_json=as_json)


@disk.command("ls")
@asks_daemon
def list_disks(client: ControlClient, as_json: bool) -> None:
    """List the shared disks, as the node that is asked sees them.

    \b
    Examples:
      csvd disk ls
      csvd disk ls --json
    """
    disks = client.disks()
    if as_json:
        print_json({"disks": disks})
        return
    rows = [disk_row(one) for one in disks]
    click.echo(table(DISK_HEADER, rows) if rows else "no disks")


DISK_HEADER: Final = ("DISK", "URL", "COORDINATOR", "EPOCH", "FENCE", "SESSION", "OFFICE")


def disk_row(one: dict[str, Any]) -> tuple[object, ...]:
    """A disk as a row under DISK_HEADER."""
    session, office = one.get("session") or {}, one.get("office") or {}
    return (
        one["name"],
        one["url"],
        one["coordinator"],
        one["epoch"],
        one.get("fence"),
        session.get("state"),
        office.get("step"),
    )


@disk.command()
@click.argument("name")
@asks_daemon
def show(client: ControlClient, as_json: bool, name: str) -> None:
    """Show one shared disk: its coordinator, the fence and its last proof, owner block, records, sessions.

    The sessions of all nodes are known to the coordinator: ask it there.

    \b
    Examples:
      csvd disk show system
      csvd disk show system --json | jq .office.sessions
    """
    found = client.disk(name)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(lines(found)))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A disk as lines for people."""
    kind = "system disk" if found["is_system"] else "shared disk"
    yield plain(f"{found['name']}: {kind}, {found['url']}, uuid {found['uuid']}")
    pinned = ", chosen by hand" if found["is_pinned"] else ""
    yield f"coordinator  {found['coordinator'] or 'none yet'}, epoch {found['epoch']}{pinned}"
    if not found.get("attached"):
        yield plain(f"this node does not have it open: {found.get('trouble') or 'it is a witness'}")
        return
    owner, slot, session = found.get("owner"), found.get("slot"), found["session"]
    if owner is not None:
        released = ", released" if owner["is_released"] else ""
        yield f"owner block  {owner['node'] or 'nobody'}, epoch {owner['epoch']}{released}"
    if slot is not None:
        yield f"records      {slot['bytes']} bytes, epoch {slot['epoch']}, write {slot['sequence']}"
    yield f"fence        {found['fence']}"
    trouble = f": {session['trouble']}" if session["trouble"] else ""
    yield plain(f"session      {session['state']}, lease {session['lease_left_s']:g} s{trouble}")
    office = found["office"] or found["last_office"]
    if office is not None:
        yield from _office(office)


def _office(office: dict[str, Any]) -> Iterator[str]:
    trouble = f": {office['trouble']}" if office["trouble"] else ""
    yield plain(f"office       {office['step']}, epoch {office['epoch']}, lease {office['lease_left_s']:g} s{trouble}")
    for title, proof in (("taken by", office["proof"]), ("last fence", office["last_fence"])):
        if proof is not None:
            whom = f"{proof['node']} is off by " if proof["node"] else ""
            yield plain(f"{title:<12} {whom}{proof['kind']}: {proof['seen']}")
    if office["sessions"]:
        yield ""
        rows = [(one["node"], one["state"], one["lease_left_s"], one["trouble"]) for one in office["sessions"]]
        yield table(("NODE", "SESSION", "LEASE", "TROUBLE"), rows)


@disk.command()
@click.argument("name")
@asks_daemon
def remove(client: ControlClient, as_json: bool, name: str) -> None:
    """Have the nodes share a disk no more. What is on it stays: csvd disk add --adopt takes it again.

    \b
    Examples:
      csvd disk remove data
    """
    removed = client.remove_disk(name)
    tell(removed, f"{name} is no disk of the cluster any more; what is on it stays", as_json=as_json)

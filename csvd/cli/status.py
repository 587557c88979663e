"""``csvd status``: what a node sees of its cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.disk import DISK_HEADER, disk_row
from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json, table
from csvd.config.values import format_size

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

WATCH_PAUSE_S: Final = 1.0


@click.command(short_help="Show what a node sees of its cluster.")
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@asks_daemon
def status(client: ControlClient, as_json: bool, watch: bool) -> None:
    """Show the cluster as the node that is asked sees it: members, coordinator, portals, shared disks,
    their offices and sessions, guests.

    \b
    Examples:
      csvd status
      csvd status --watch
      csvd status --json | jq .coordinator.node
    """
    while True:
        answer = client.status(detail=True)
        if watch and sys.stdout.isatty():
            click.clear()
        if as_json:
            print_json(answer)
        else:
            click.echo("\n".join(lines(answer)))
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(WATCH_PAUSE_S)


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """The status as lines for people."""
    coordinator = answer["coordinator"]
    office = f"coordinator {coordinator['node']}, epoch {coordinator['epoch']}" if coordinator else "no coordinator"
    members = answer["members"]
    connected = sum(member["connected"] for member in members.values())
    yield f"node {answer['node']}: {office}, term {answer['term']}, {connected} of {len(members)} members here"
    if answer["failure"]:
        yield f"THIS NODE TAKES NO PART IN THE CLUSTER: {plain(answer['failure'])}"
    yield ""
    yield table(("NODE", "ADDRESS", "LINK", "ROLE", "PORTALS", "SESSIONS"), _members(answer))
    for name, member in members.items():
        if not member["connected"] and member["trouble"]:
            yield f"no link to {name}: {plain(member['trouble'])}"
    for name, member in members.items():
        for what, why in (member["facts"] or {}).get("troubles", {}).items():
            yield f"{name} can not serve {plain(what)}: {plain(why)}"
    workers = list(_workers(answer))
    if workers:
        yield ""
        yield table(("NODE", "WORKER", "PROCESS", "STATE", "SESSIONS", "RESTARTS", "MEMORY", "TARGETS"), workers)
    if answer["disks"]:
        yield ""
        yield table(DISK_HEADER, [disk_row(one) for one in answer["disks"]])
        sessions = list(_sessions(answer))
        if sessions:
            yield ""
            yield table(("DISK", "NODE", "SESSION", "LEASE", "TROUBLE"), sessions)
    yield ""
    rows = [guest_row(one) for one in answer["guests"]]
    yield table(GUEST_HEADER, rows) if rows else "no guests"


def _members(answer: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    coordinator = answer["coordinator"] or {"node": None}
    for name, member in answer["members"].items():
        role = "coordinator" if name == coordinator["node"] else ""
        facts = member["facts"] or {"portals": [], "sessions": None}
        yield (name, member["address"], member["link"], role, ", ".join(facts["portals"]), facts["sessions"])


def _sessions(answer: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """The nodes' sessions, where the node that is asked is the coordinator."""
    for disk in answer["disks"]:
        for one in (disk.get("office") or {}).get("sessions", ()):
            yield (disk["name"], one["node"], one["state"], one["lease_left_s"], one["trouble"])


def _workers(answer: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, member in answer["members"].items():
        for one in (member["facts"] or {}).get("workers", ()):
            memory = format_size(one["resident_bytes"]) if one["resident_bytes"] else None
            shown = (one["worker"], one["process_id"], one["state"], one["sessions"], one["restarts"], memory)
            yield (name, *shown, ", ".join(one["targets"]) or None)


GUEST_HEADER: Final = ("GUEST", "OWNER", "EPOCH", "STATE", "MEMORY")


def guest_row(one: dict[str, Any]) -> tuple[object, ...]:
    """A guest as a row under GUEST_HEADER."""
    memory_bytes = one["spec"].get("memory_bytes")
    memory = format_size(memory_bytes) if isinstance(memory_bytes, int) else None
    return (one["name"], one["owner"], one["epoch"], one["state"], memory)

"""``csvd event``: what happened at a node lately."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

FOLLOW_PAUSE_S = 0.5


@click.group(short_help="What happened at a node lately.")
def event() -> None:
    """What happened at the node that is asked: elections, logins, migrations."""


@event.command("ls")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Only events after number N.")
@click.option("--follow", is_flag=True, help="Go on with events as they happen, until Ctrl-C.")
@asks_daemon
def list_events(client: ControlClient, as_json: bool, after: int, follow: bool) -> None:
    """List the latest events, oldest first; the node keeps the last 1,024 of this run.

    With --follow and --json, one JSON object a line.

    \b
    Examples:
      csvd event ls
      csvd event ls --follow
    """
    if as_json and not follow:
        print_json(_all(client, after))
        return
    while True:
        answer = _all(client, after)
        for one in answer["events"]:
            _print(one, as_json=as_json)
        if not follow:
            return
        after = answer["last"]
        time.sleep(FOLLOW_PAUSE_S)


def _all(client: ControlClient, after: int) -> dict[str, Any]:
    """All events after a number; the daemon answers a part at a time."""
    answer = client.events(after)
    part = answer
    while part["events"]:
        part = client.events(part["last"])
        answer["events"] += part["events"]
        answer["last"] = part["last"]
    return answer


def _print(one: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(one).decode())
        return
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["time_s"]))
    click.echo(f"{one['number']:>5}  {moment}  {one['kind']:<10} {plain(one['text'])}")

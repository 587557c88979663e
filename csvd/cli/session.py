"""``csvd session``: the iSCSI sessions of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table, tell
from csvd.cli.rights_options import chosen, target_option

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The iSCSI sessions of the nodes.")
def session() -> None:
    """The iSCSI sessions of the node that is asked, and of the others in its cluster."""


@session.command("ls")
@click.option("--local", "is_local", is_flag=True, help="Only those of the node that is asked.")
@asks_daemon
def list_sessions(client: ControlClient, as_json: bool, is_local: bool) -> None:
    """List the sessions of all nodes that answer.

    \b
    Examples:
      csvd session ls
      csvd session ls --local
      csvd session ls --json
    """
    sessions = client.sessions(of_all_nodes=not is_local)
    if as_json:
        print_json({"sessions": sessions})
        return
    rows = [
        (
            one["node"],
            one["initiator"],
            one["target"],
            one["tsih"],
            one["isid"],
            ", ".join(one["peers"]),
            ", ".join(map(str, one["cids"])),
            _digests(one["parameters"]),
            _age(one["age_s"]),
            one["tasks"],
            one["statistics"]["count"],
        )
        for one in sessions
    ]
    head = ("NODE", "INITIATOR", "TARGET", "TSIH", "ISID", "FROM", "CID", "DIGESTS", "AGE", "TASKS", "COMMANDS")
    click.echo(table(head, rows))


def _digests(parameters: dict[str, Any]) -> str:
    words = [word for word in ("header", "data") if parameters[f"{word}_digest"] != "None"]
    return ", ".join(words) or "none"


def _age(age_s: float) -> str:
    minutes, seconds = divmod(int(age_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


@session.command()
@click.argument("tsih", type=int)
@target_option
@click.option(
    "--grace",
    "grace_s",
    type=click.IntRange(0, 3600),
    default=0,
    metavar="SECONDS",
    help="Ask the initiator to log out, and drop the session when it has not by then.",
)
@click.option("--node", "node", metavar="NODE", help="The node that has the session.  [default: the one asked]")
@asks_daemon
def drop(client: ControlClient, as_json: bool, tsih: int, target: str | None, grace_s: int, node: str | None) -> None:
    """End a session: its connections are closed, and what it had under way is aborted.

    Most initiators log in again at once; csvd acl rm and csvd target set keep one out.

    \b
    Examples:
      csvd session drop 3
      csvd session drop 3 --target iqn.2026-11.org.example:shared --grace 10
      csvd session drop 3 --node node2
    """
    gone = client.drop_session(chosen(client, target), tsih, grace_s=grace_s, node=node)
    what = f"is asked to log out within {grace_s} s" if grace_s else "is dropped"
    tell(gone, f"the session {tsih} of {gone['initiator']} {what}", as_json=as_json)

"""``csvd acl``: which initiators may log in to a target, and what holds for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table, tell
from csvd.cli.rights_options import chap_keys, chap_options, chosen, target_option

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="Which initiators may log in.")
def acl() -> None:
    """The access lists of the node that is asked, and of its cluster. What is changed here is kept over a restart.

    A target without a list, and without initiators in its configuration, lets in all.
    """


@acl.command()
@click.argument("initiator")
@target_option
@click.option("--lun", "luns", multiple=True, type=int, metavar="N", help="A LUN that it sees.  [default: all]")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="From where.  [default: as the target]")
@chap_options
@asks_daemon
def add(
    client: ControlClient,
    as_json: bool,
    initiator: str,
    target: str | None,
    luns: Sequence[int],
    networks: Sequence[str],
    **chap: Any,
) -> None:
    """Let an initiator log in. With the first entry of a list, nobody else may.

    \b
    Examples:
      csvd acl add iqn.2026-11.org.example:host1
      csvd acl add iqn.2026-11.org.example:host1 --lun 0 --lun 3 --network 10.0.0.0/8
      csvd acl add iqn.2026-11.org.example:host1 --chap-user host1 --chap-secret-file host1.secret
    """
    keys = {"luns": list(luns), "networks": list(networks), "chap": chap_keys(chap)}
    name = chosen(client, target)
    entry = client.add_acl(name, initiator, {key: value for key, value in keys.items() if value})
    tell(entry, f"{entry['initiator']} may log in to {name}", as_json=as_json)


@acl.command("set")
@click.argument("initiator")
@target_option
@click.option("--lun", "luns", multiple=True, type=int, metavar="N", help="A LUN that it sees, instead of before.")
@click.option("--all-luns", is_flag=True, help="It sees all.")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="From where, instead of before.")
@click.option("--any-network", is_flag=True, help="From where the target lets in.")
@chap_options
@click.option("--no-chap", is_flag=True, help="By the secret of the target, where it has one.")
@asks_daemon
def set_(
    client: ControlClient,
    as_json: bool,
    initiator: str,
    target: str | None,
    luns: Sequence[int],
    all_luns: bool,
    networks: Sequence[str],
    any_network: bool,
    no_chap: bool,
    **chap: Any,
) -> None:
    """Change what holds for an initiator of the list. Sessions that lost their right end.

    \b
    Examples:
      csvd acl set iqn.2026-11.org.example:host1 --lun 0 --lun 4
      csvd acl set iqn.2026-11.org.example:host1 --all-luns --no-chap
    """
    said = {"luns": list(luns), "networks": list(networks), "chap": chap_keys(chap)}
    keys: dict[str, Any] = {key: value for key, value in said.items() if value}
    undone = (("luns", all_luns), ("networks", any_network), ("chap", no_chap))
    keys |= {key: None for key, is_asked in undone if is_asked}
    if not keys:
        raise click.UsageError("nothing to change: name an option")
    name = chosen(client, target)
    entry = client.set_acl(name, initiator, keys)
    tell(entry, f"what holds for {entry['initiator']} at {name} is changed", as_json=as_json)


@acl.command("ls")
@target_option
@asks_daemon
def list_acl(client: ControlClient, as_json: bool, target: str | None) -> None:
    """List who may log in to a target.

    \b
    Examples:
      csvd acl ls
    """
    entries = client.acl(chosen(client, target))
    if as_json:
        print_json({"acl": entries})
    else:
        click.echo(acl_table(entries))


def acl_table(entries: Iterable[dict[str, Any]]) -> str:
    """An access list as a table for people."""
    rows = [
        (
            one["initiator"],
            "all" if one["luns"] is None else ", ".join(map(str, one["luns"])) or "none",
            "as the target" if one["networks"] is None else ", ".join(one["networks"]),
            one["chap"]["user"] if one["chap"] else "as the target",
            one["origin"],
        )
        for one in entries
    ]
    return table(("INITIATOR", "LUNS", "NETWORKS", "CHAP", "FROM"), rows)


@acl.command()
@click.argument("initiator")
@target_option
@asks_daemon
def rm(client: ControlClient, as_json: bool, initiator: str, target: str | None) -> None:
    """Let an initiator log in no more, and end its sessions. With the last entry of a list, nobody may log in.

    \b
    Examples:
      csvd acl rm iqn.2026-11.org.example:host1
    """
    name = chosen(client, target)
    entry = client.remove_acl(name, initiator)
    tell(entry, f"{entry['initiator']} may no longer log in to {name}", as_json=as_json)

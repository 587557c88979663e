"""``csvd token``: the tokens by which nodes join the cluster."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import print_json, table, tell

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

_SHOWN_DIGITS: Final = 12
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def DURATION(value: str) -> int:  # noqa: N802 - a type of click's, written as click writes its own
    """A number of seconds, with s, m, h or d."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value[:20]!r} is not a time: write 90s, 15m, 1h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


@click.group(short_help="The tokens by which nodes join.")
def token() -> None:
    """The tokens by which nodes join the cluster: each is good for one node, once, until it expires."""


@token.command()
@click.option("--expires", type=DURATION, metavar="TIME", help="How long it can be used: 90s, 15m, 7d.  [default: 1h]")
@click.option("--witness", is_flag=True, help="For a node that only votes.")
@asks_daemon
def create(client: ControlClient, as_json: bool, expires: int | None, witness: bool) -> None:
    """Make a join token, and print it. It is a secret: who has it can make a node of the cluster.

    \b
    Examples:
      csvd token create | ssh node2 csvd join - --config /etc/csvd/csvd.toml
      (umask 077; csvd token create --expires 15m > token)
      csvd token create --witness > token
    """
    made = client.create_token(life_s=expires, is_witness=witness)
    if as_json:
        print_json(made)
        return
    click.echo(made["token"])
    click.echo(f"token {made['id'][:_SHOWN_DIGITS]} can be used once, within {_left(made)}", err=True)


@token.command("ls")
@asks_daemon
def list_tokens(client: ControlClient, as_json: bool) -> None:
    """List the tokens that can be used now.

    \b
    Examples:
      csvd token ls
    """
    tokens = client.tokens()
    if as_json:
        print_json({"tokens": tokens})
        return
    rows = [(one["id"][:_SHOWN_DIGITS], "witness" if one["is_witness"] else "node", _left(one)) for one in tokens]
    click.echo(table(("TOKEN", "FOR", "EXPIRES IN"), rows))


@token.command()
@click.argument("token_id", metavar="TOKEN")
@asks_daemon
def revoke(client: ControlClient, as_json: bool, token_id: str) -> None:
    """Revoke a token, named as csvd token ls names it.

    \b
    Examples:
      csvd token revoke 5a0c3e1f9b27
    """
    removed = client.revoke_token(token_id)
    tell(removed, f"token {removed['id'][:_SHOWN_DIGITS]} is revoked", as_json=as_json)


def _left(record: dict[str, Any]) -> str:
    return str(timedelta(seconds=max(0, int(record["expires_at_s"] - time.time()))))

"""``csvd key``: the key by which the cluster's secrets are sealed on the system disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from csvd.cli.options import asks_daemon
from csvd.cli.output import plain, print_json

if TYPE_CHECKING:
    from csvd.api.client import ControlClient

_WHAT: Final = {
    "secret": "CHAP secret",
    "mutual_secret": "secret by which the target proves itself",
    "disk_secret": "secret for the disk",
}


@click.group(short_help="The key of the cluster's secrets.")
def key() -> None:
    """The key by which CHAP secrets are sealed on the system disk. The nodes have it, in files that nobody else may
    read, and give it to one another over their links alone."""


@key.command()
@asks_daemon
def rotate(client: ControlClient, as_json: bool) -> None:
    """Make a new key, give it to every node, and seal all secrets with it. csvd node evict does so by itself.

    A node that is off gets it when it is back. Whoever knew the old key and could read the disk may know what was
    sealed with it: those secrets are named, and only giving them anew changes them.

    \b
    Examples:
      csvd key rotate
      csvd key rotate --json | jq -r '.secrets[].target'
    """
    rotated = client.rotate_key()
    if as_json:
        print_json(rotated)
        return
    click.echo(f"all secrets are sealed with the new key {rotated['key']}")
    name_secrets("who knew the old key", rotated["secrets"])


def name_secrets(who: str, secrets: Sequence[Mapping[str, str]]) -> None:
    """Print which secrets somebody may know, where there are any."""
    if secrets:
        click.echo(f"{who} may know these; give them anew (csvd target set, csvd acl set, csvd lun set):")
        click.echo("\n".join(_secret_lines(secrets)))


def _secret_lines(secrets: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What each secret is for, a line each."""
    for one in secrets:
        user = f" of user {one['user']}" if one["user"] else ""
        lun = f" of LUN {one['lun']}" if one["lun"] else ""
        initiator = f", for {one['initiator']}" if one["initiator"] else ""
        yield plain(f"  {one['target']}: {_WHAT.get(one['what'], one['what'])}{user}{lun}{initiator}")

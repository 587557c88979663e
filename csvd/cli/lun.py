"""``csvd lun``: the logical units of a node, and how they are changed while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from csvd.cli.options import SIZE, asks_daemon
from csvd.cli.output import plain, print_json, table, tell
from csvd.cli.rights_options import chosen, target_option
from csvd.cli.unit_options import keys_of, unit_options
from csvd.config.values import format_size

if TYPE_CHECKING:
    from csvd.api.client import ControlClient


@click.group(short_help="The logical units of a node.")
def lun() -> None:
    """The logical units of the node that is asked, and of its cluster. What is changed here is kept over a restart."""


@lun.command()
@click.argument("disk")
@target_option
@click.option("--lun", "number", type=click.IntRange(0, 16383), metavar="N", help="Its number.  [default: lowest free]")
@unit_options
@asks_daemon
def add(
    client: ControlClient, as_json: bool, disk: str, target: str | None, number: int | None, **options: Any
) -> None:
    """Serve a disk as another logical unit. Initiators that are logged in are told of it.

    A logical unit of the cluster is served by all nodes: its disk is at the same path or URL at each of them.

    \b
    Examples:
      csvd lun add /srv/b.img --create 10G
      csvd lun add /srv/c.img --create 10G --provisioning full --block-bytes 4096 --lun 7
      csvd lun add /dev/sdb --target iqn.2026-11.org.example:backup --read-only
    """
    keys = {**keys_of(options), "disk": absolute(disk)}
    if number is not None:
        keys["number"] = number
    _tell(client.add_lun(chosen(client, target), keys), "is served", as_json=as_json)


def absolute(disk: str) -> str:
    """A path named from the root; a URL as it is."""
    scheme, colon, _ = disk.partition(":")
    return disk if colon and scheme.isascii() and scheme.isalnum() else os.path.abspath(disk)


@lun.command("set")
@click.argument("number", metavar="LUN", type=int)
@target_option
@click.option("--disk", metavar="DISK", help="Another disk.")
@unit_options
@click.option("--default", "defaults", multiple=True, metavar="KEY", help="Take the default of a key, as serial.")
@asks_daemon
def set_(
    client: ControlClient,
    as_json: bool,
    number: int,
    target: str | None,
    disk: str | None,
    defaults: Sequence[str],
    **options: Any,
) -> None:
    """Change a logical unit: it is taken away and comes again, so what initiators have open on it fails.

    \b
    Examples:
      csvd lun set 1 --read-only
      csvd lun set 1 --vendor ACME --product DISK --default serial
    """
    keys: dict[str, Any] = {key.replace("-", "_"): None for key in defaults} | keys_of(options)
    if disk is not None:
        keys["disk"] = absolute(disk)
    if not keys:
        raise click.UsageError("nothing to change: name an option")
    _tell(client.set_lun(chosen(client, target), number, keys), "is changed", as_json=as_json)


@lun.command()
@click.argument("number", metavar="LUN", type=int)
@click.argument("size_bytes", metavar="[SIZE]", type=SIZE, required=False)
@target_option
@click.option("--force", is_flag=True, help="Make it smaller, too: what lies beyond the new end is lost.")
@asks_daemon
def resize(
    client: ControlClient, as_json: bool, number: int, size_bytes: int | None, target: str | None, force: bool
) -> None:
    """Give a logical unit another size. Without SIZE, take the size that its file or device was given by others.

    Every logical unit over the same disk changes with it, and initiators are told.

    \b
    Examples:
      csvd lun resize 1 20G
      csvd lun resize 1
    """
    face = client.resize_lun(chosen(client, target), number, size_bytes, force=force)
    _tell(face, f"has {format_size(face['size_bytes'])}", as_json=as_json)


@lun.command()
@click.argument("number", metavar="LUN", type=int)
@target_option
@asks_daemon
def rm(client: ControlClient, as_json: bool, number: int, target: str | None) -> None:
    """Serve a logical unit no more. Its disk stays as it is.

    \b
    Examples:
      csvd lun rm 1
    """
    _tell(client.remove_lun(chosen(client, target), number), "is removed", as_json=as_json)


def _tell(face: dict[str, Any], verb: str, *, as_json: bool) -> None:
    tell(face, f"LUN {face['number']} of {face['target']} {verb}: {face['disk']}", as_json=as_json)


@lun.command("ls")
@click.option("--target", "target", metavar="IQN", help="Only those of one target.")
@asks_daemon
def list_luns(client: ControlClient, as_json: bool, target: str | None) -> None:
    """List the logical units.

    \b
    Examples:
      csvd lun ls
      csvd lun ls --json | jq -r .luns[].serial
    """
    luns = client.luns(target)
    if as_json:
        print_json({"luns": luns})
    else:
        click.echo(lun_table(luns))


def lun_table(luns: Iterable[dict[str, Any]]) -> str:
    """Logical units as a table for people."""
    rows = [
        (
            one["number"],
            one["target"],
            one["disk"],
            "not served here" if one["size_bytes"] is None else format_size(one["size_bytes"]),
            one["block_bytes"],
            _kind(one),
            one["serial"],
            one["origin"],
        )
        for one in luns
    ]
    return table(("LUN", "TARGET", "DISK", "SIZE", "BLOCK", "KIND", "SERIAL", "FROM"), rows)


def _kind(one: dict[str, Any]) -> str:
    words = [one["disk_kind"]]
    if one["thin"] is not None:
        words.append("thin" if one["thin"] else "full")
    words += [word for word, is_so in (("read-only", one["read_only"]), ("removable", one["removable"])) if is_so]
    return ", ".join(words)


_SHOWN: Final = (
    "disk",
    "disk_kind",
    "fence",
    "size_bytes",
    "block_bytes",
    "physical_block_bytes",
    "thin",
    "read_only",
    "removable",
    "write_cache",
    "vendor",
    "product",
    "revision",
    "serial",
    "naa",
    "direct",
    "soft_threshold_percent",
    "rotation_rate",
    "max_transfer",
)


@lun.command()
@click.argument("number", metavar="LUN", type=int)
@target_option
@asks_daemon
def show(client: ControlClient, as_json: bool, number: int, target: str | None) -> None:
    """Show a logical unit.

    \b
    Examples:
      csvd lun show 0
    """
    face = client.lun(chosen(client, target), number)
    if as_json:
        print_json(face)
    else:
        click.echo("\n".join(_lines(face)))


def _lines(face: dict[str, Any]) -> Iterator[str]:
    yield plain(f"LUN {face['number']} of {face['target']}  from {face['origin']}")
    if face.get("trouble"):
        yield plain(f"  not served by this node: {face['trouble']}")
    for key in _SHOWN:
        value = face.get(key)
        if value is None and face.get("trouble"):
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif key == "size_bytes" and isinstance(value, int):
            value = f"{value} ({format_size(value)})"
        yield plain(f"  {key}: {value}")

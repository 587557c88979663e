"""``csv-initiator reserve``: persistent reservations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import click
from twisted.internet.defer import Deferred

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.table import show_table
from initiator.disk import Disk
from initiator.errors import IllegalRequest, MalformedAnswer
from initiator.reservations import Reservations
from initiator.scsi.reservations import ReservationType
from initiator.url import IscsiUrl

_TYPES: Final = {kind.text: kind for kind in ReservationType}

_Call = Callable[[Reservations], Coroutine[Deferred[Any], Any, None]]


@click.group()
def reserve() -> None:
    """Show and change the persistent reservations of a disk: who may use it, and who is kept from it.

    A key is a number of 64 bits, as 0x1234. It is registered for this initiator's session: its name and its ISID, which
    these commands take from the name, so that what one registers the next one still has. Two of them at once with one
    name and ISID would end each other's session.

    \b
    Examples:
      csv-initiator reserve show iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator reserve register iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
      csv-initiator reserve reserve iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
      csv-initiator reserve preempt iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234 --victim 0x99 --abort
      csv-initiator reserve clear iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
    """


def _key(value: str) -> int:
    """Kind of option: a reservation key."""
    try:
        key = int(value, 0)
    except ValueError:
        key = -1
    if not 0 < key < 1 << 64:
        raise click.BadParameter(f"{value!r} is not a key: write a number from 1 to 64 bits, as 0x1234.")
    return key


def _isid(value: str) -> bytes:
    """Kind of option: an ISID."""
    try:
        isid = bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        isid = b""
    if len(isid) != 6:
        raise click.BadParameter(f"{value!r} is not an ISID: write 12 hex digits.")
    return isid


_with_key = click.option("--key", type=_key, required=True, metavar="KEY", help="Our key.")
_with_type = click.option(
    "--type",
    "kind",
    type=click.Choice(sorted(_TYPES)),
    default=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY.text,
    show_default=True,
    help="What others are kept from.",
)
_with_aptpl = click.option("--through-power-loss", is_flag=True, help="APTPL: have it outlast a power loss.")


def _with_disk(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the URL and the options of a login whose ISID lasts."""

    @functools.wraps(command)
    def run(*args: Any, login: Login, isid: bytes | None, url: IscsiUrl, **others: Any) -> Any:
        how = login.with_lasting_isid(isid).of(url.user, recover=False)
        return command(*args, how=how, url=url, **others)

    option = click.option("--isid", type=_isid, metavar="HEX", help="Of our session.  [default: made of our name]")
    return click.argument("url", type=options.url, metavar="URL")(option(login_options(run)))


def _change(how: client.Login, url: IscsiUrl, call: _Call) -> None:
    async def work(reactor: Any) -> None:
        async with client.connect(url, reactor=reactor, **how) as disk:
            await call(disk.reservations)

    runtime.run(work)


@reserve.command()
@_with_disk
@options.json_option
def show(url: IscsiUrl, how: client.Login, as_json: bool) -> None:
    """Show the registered keys, who holds the disk, and what the target can do.

    \b
    Examples:
      csv-initiator reserve show iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator reserve show iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --json
    """

    async def work(reactor: Any) -> dict[str, Any]:
        async with client.connect(url, reactor=reactor, **how) as disk:
            return {"url": str(url)} | await gather(disk)

    found = runtime.run(work)
    if as_json:
        options.echo_json(found)
    else:
        _show(found)


async def gather(disk: Disk) -> dict[str, Any]:
    """Ask for registrations, reservation and capabilities; what the target does not tell is None."""
    calls = disk.reservations
    keys, held = await calls.keys(), await calls.reservation()
    found: dict[str, Any] = {
        "generation": keys.generation,
        "keys": [f"{key:#x}" for key in keys.keys],
        "reservation": None,
        "registrants": None,
        "capabilities": None,
    }
    if held.held:
        found["reservation"] = {"key": f"{held.key:#x}", "type": _type_text(held.type, held.kind)}
    with suppress(IllegalRequest, MalformedAnswer):
        found["registrants"] = [
            {
                "key": f"{one.key:#x}",
                "holder": one.holder,
                "initiator": one.initiator.text,
                "target_port": None if one.all_target_ports else one.relative_target_port,
            }
            for one in (await calls.full_status()).registrants
        ]
    with suppress(IllegalRequest, MalformedAnswer):
        able = await calls.capabilities()
        found["capabilities"] = {
            "through_power_loss": able.persist_through_power_loss,
            "all_target_ports": able.all_target_ports,
            "specify_initiator_ports": able.specify_initiator_ports,
            "types": None if able.types is None else [kind.text for kind in able.types],
        }
    return found


def _type_text(kind: ReservationType | None, number: int) -> str:
    return f"type {number}" if kind is None else kind.text


def _show(found: dict[str, Any]) -> None:
    held = found["reservation"]
    click.echo(f"Reservation: {held['type']}, held by {held['key']}" if held else "Reservation: none")
    if found["registrants"]:
        rows = [
            (one["key"], "yes" if one["holder"] else "", one["target_port"] or "all", one["initiator"])
            for one in found["registrants"]
        ]
        show_table(("KEY", "HOLDER", "PORT", "INITIATOR"), rows, numbers=(2,))
    elif found["keys"]:
        show_table(("KEY",), [(key,) for key in found["keys"]])
    else:
        click.echo("no keys are registered")


@reserve.command()
@_with_disk
@click.option("--key", type=_key, required=True, metavar="KEY", help="The new key.")
@click.option("--old-key", type=_key, metavar="KEY", help="The key that is registered now.")
@click.option("--ignore-existing", is_flag=True, help="Whatever key is registered now.")
@click.option("--all-target-ports", is_flag=True, help="At every port of the target.")
@_with_aptpl
def register(
    url: IscsiUrl,
    how: client.Login,
    key: int,
    old_key: int | None,
    ignore_existing: bool,
    all_target_ports: bool,
    through_power_loss: bool,
) -> None:
    """Register a key for us, or another one in the place of --old-key.

    \b
    Examples:
      csv-initiator reserve register iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
      csv-initiator reserve register iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x5678 --old-key 0x1234
    """
    if ignore_existing and old_key is not None:
        raise click.UsageError("--ignore-existing makes --old-key count for nothing: give one of them")
    _change(
        how,
        url,
        lambda calls: calls.register(
            key,
            key=old_key or 0,
            ignore_existing=ignore_existing,
            all_target_ports=all_target_ports,
            through_power_loss=through_power_loss,
        ),
    )


@reserve.command()
@_with_disk
@_with_key
def unregister(url: IscsiUrl, how: client.Login, key: int) -> None:
    """Take our key back; a reservation that we alone hold ends.

    \b
    Examples:
      csv-initiator reserve unregister iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
    """
    _change(how, url, lambda calls: calls.register(0, key=key))


@reserve.command("reserve")
@_with_disk
@_with_key
@_with_type
def take(url: IscsiUrl, how: client.Login, key: int, kind: str) -> None:
    """Reserve the disk; our key has to be registered before.

    \b
    Examples:
      csv-initiator reserve reserve iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
      csv-initiator reserve reserve iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234 --type exclusive-access
    """
    _change(how, url, lambda calls: calls.reserve(_TYPES[kind], key=key))


@reserve.command()
@_with_disk
@_with_key
@_with_type
def release(url: IscsiUrl, how: client.Login, key: int, kind: str) -> None:
    """End the reservation that we hold; our key stays registered.

    \b
    Examples:
      csv-initiator reserve release iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
    """
    _change(how, url, lambda calls: calls.release(_TYPES[kind], key=key))


@reserve.command()
@_with_disk
@_with_key
@click.option("--victim", type=_key, required=True, metavar="KEY", help="Whose registrations are taken away.")
@click.option("--abort", is_flag=True, help="End his commands, too: none of his writes lands any more.")
@_with_type
def preempt(url: IscsiUrl, how: client.Login, key: int, victim: int, abort: bool, kind: str) -> None:
    """Take somebody's registrations away, and the reservation where he holds it.

    \b
    Examples:
      csv-initiator reserve preempt iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234 --victim 0x99 --abort
    """
    _change(how, url, lambda calls: calls.preempt(victim, key=key, kind=_TYPES[kind], abort=abort))


@reserve.command()
@_with_disk
@_with_key
def clear(url: IscsiUrl, how: client.Login, key: int) -> None:
    """End the reservation and all registrations, whose ever they are.

    \b
    Examples:
      csv-initiator reserve clear iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --key 0x1234
    """
    _change(how, url, lambda calls: calls.clear(key=key))

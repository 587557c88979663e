"""``csv-initiator ls``."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.table import show_table
from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget
from initiator.errors import CommandFailed, InitiatorError, MalformedAnswer
from initiator.scsi.inquiry import DeviceIdentification, Inquiry, LogicalBlockProvisioning
from initiator.session import Session
from initiator.unit import units_of
from initiator.url import IscsiUrl, Portal

_PROVISIONING = {1: "resource", 2: "thin"}
_HEAD = ("LUN", "TYPE", "SIZE", "BLOCK", "KIND", "DEVICE", "IDENTITY")


@click.command("ls")
@click.argument("where", metavar="URL|HOST[:PORT]")
@login_options
@options.json_option
def ls(where: str, login: Login, as_json: bool) -> None:
    """List the LUNs of a target, or of all targets at a portal, with their sizes and kinds.

    A target that does not let us in is told of on stderr, and the exit status is 1; the others are listed all the same.

    \b
    Examples:
      csv-initiator ls 192.0.2.7
      csv-initiator ls iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk
      csv-initiator ls san.example --chap-user joe --chap-secret-file joe.secret --json
    """
    place = _place(where)
    how = login.of(place.user)

    async def work(reactor: Any) -> list[dict[str, Any]]:
        return [await _target(reactor, how, url) for url in await _targets(reactor, how, place)]

    targets = runtime.run(work)
    if as_json:
        options.echo_json({"where": str(place), "targets": targets})
    else:
        _show(targets)
    for target in targets:
        if target["error"]:
            raise runtime.Failed(f"{target['name']}: {target['error']}")


def _place(where: str) -> IscsiUrl:
    """Take a target's URL, or a portal: its target has no name then."""
    _, _, path = where.partition("://")
    return options.url(where) if path.rstrip("/").count("/") else options.portal_url(where)


async def _targets(reactor: Any, how: client.Login, place: IscsiUrl) -> list[IscsiUrl]:
    if place.target_name:
        return [place]
    found = await client.discover(place, reactor=reactor, **how)
    return [IscsiUrl(_portal(target, place.portal), target.name, 0, place.user) for target in found]


def _portal(target: DiscoveredTarget, asked: Portal) -> Portal:
    """Where to log in: at the portal that was asked, where the target has it."""
    portals = [address.portal for address in target.addresses]
    return asked if asked in portals or not portals else portals[0]


async def _target(reactor: Any, how: client.Login, url: IscsiUrl) -> dict[str, Any]:
    found: dict[str, Any] = {"name": url.target_name, "portal": str(url.portal), "alias": "", "luns": [], "error": None}
    try:
        session = await client.login(url, reactor=reactor, **how)
        try:
            found["alias"] = session.target_alias
            found["luns"] = [
                await _unit(session, url, lun, inquiry) for lun, inquiry in await units_of(session) if inquiry.connected
            ]
        finally:
            await session.close()
    except InitiatorError as error:
        found["error"] = str(error)
    return found


async def _unit(session: Session, url: IscsiUrl, lun: int, inquiry: Inquiry) -> dict[str, Any]:
    unit: dict[str, Any] = {
        "lun": lun,
        "url": str(IscsiUrl(url.portal, url.target_name, lun)),
        "type": inquiry.device_type_name,
        "vendor": inquiry.vendor,
        "product": inquiry.product,
        "revision": inquiry.revision,
        "size_bytes": None,
        "block_bytes": None,
        "provisioning": None,
        "identity": "",
    }
    if not inquiry.is_disk:
        return unit
    try:
        disk = await Disk.open(session, lun)
    except CommandFailed as error:
        return unit | {"type": f"{inquiry.device_type_name}, not ready: {error.why}"}
    unit |= {"size_bytes": disk.size_bytes, "block_bytes": disk.block_bytes, "provisioning": "full"}
    for code in await disk.supported_pages():
        if code in (0x83, 0xB2):
            with suppress(CommandFailed, MalformedAnswer):
                page = await disk.vpd(code)
                if isinstance(page, DeviceIdentification):
                    unit["identity"] = page.unit_identity
                elif isinstance(page, LogicalBlockProvisioning):
                    unit["provisioning"] = _PROVISIONING.get(page.provisioning_type, "full")
    return unit


def _show(targets: list[dict[str, Any]]) -> None:
    for number, target in enumerate(targets):
        if number:
            click.echo()
        click.echo(runtime.printable(f"{target['name']} at {target['portal']} {target['alias']}".strip()))
        if target["luns"]:
            show_table(_HEAD, [_row(unit) for unit in target["luns"]], numbers=(0, 2, 3))
        elif not target["error"]:
            click.echo("no LUNs", err=True)
    if not targets:
        click.echo("no targets", err=True)


def _row(unit: dict[str, Any]) -> tuple[object, ...]:
    size = "" if unit["size_bytes"] is None else options.size_text(unit["size_bytes"])
    device = f"{unit['vendor']} {unit['product']}".strip()
    return (
        unit["lun"],
        unit["type"],
        size,
        unit["block_bytes"] or "",
        unit["provisioning"] or "",
        device,
        unit["identity"],
    )

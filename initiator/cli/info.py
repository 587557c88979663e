"""``csv-initiator info``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.disk import Disk
from initiator.errors import CommandFailed, MalformedAnswer
from initiator.scsi.inquiry import (
    BlockDeviceCharacteristics,
    DeviceIdentification,
    LogicalBlockProvisioning,
    SupportedPages,
    UnitSerialNumber,
    VpdPage,
)
from initiator.url import IscsiUrl

_PAGES = (0x80, 0x83, 0xB1, 0xB2)
_PROVISIONING = {1: "resource", 2: "thin"}
_ASSOCIATIONS = ("unit", "port", "target", "reserved")


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@options.session_options
@options.json_option
def info(
    url: IscsiUrl,
    chap: options.Chap,
    initiator_name: str | None,
    header_digest: bool,
    data_digest: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Show what a disk says of itself: size, identity, limits, write cache, and what the session agreed on.

    \b
    Examples:
      csv-initiator info iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator info iscsi://joe@192.0.2.7/iqn.2026-11.org.csvd:disk/0 --chap-secret-file joe.secret --json
    """
    credentials, target_credentials = chap.settle(url.user)

    async def work(reactor: Any) -> dict[str, Any]:
        disk = await client.connect(
            url,
            reactor=reactor,
            credentials=credentials,
            target_credentials=target_credentials,
            initiator_name=initiator_name or "",
            timeout_s=timeout_s,
            options=options.session_of(header_digest, data_digest),
        )
        async with disk:
            return await _gather(url, disk)

    found = runtime.run(work)
    if as_json:
        options.echo_json(found)
    else:
        _show(found)


async def _gather(url: IscsiUrl, disk: Disk) -> dict[str, Any]:
    pages = await _pages(disk)
    session, inquiry, capacity = disk.session, await disk.inquiry(), disk.capacity
    return {
        "url": str(url),
        "target": {
            "name": session.target_name,
            "alias": session.target_alias,
            "portal": str(session.portal),
            "portal_group_tag": session.portal_group_tag,
            "luns": await disk.report_luns(),
        },
        "disk": {
            "lun": disk.lun,
            "vendor": inquiry.vendor,
            "product": inquiry.product,
            "revision": inquiry.revision,
            "type": inquiry.device_type_name,
            "removable": inquiry.removable,
            "size_bytes": capacity.size_bytes,
            "block_bytes": capacity.block_bytes,
            "physical_block_bytes": capacity.physical_block_bytes,
            "write_cache": await disk.write_cache_enabled(),
        }
        | pages,
        "limits": asdict(disk.limits),
        "session": asdict(session.parameters),
    }


async def _pages(disk: Disk) -> dict[str, Any]:
    """Give what the VPD pages say; a page that the target refuses or garbles is left out."""
    found: list[VpdPage] = []
    listed: tuple[int, ...] = ()
    with suppress(CommandFailed, MalformedAnswer):
        supported = await disk.vpd(0x00)
        listed = supported.pages if isinstance(supported, SupportedPages) else ()
    for code in _PAGES:
        if code in listed:
            with suppress(CommandFailed, MalformedAnswer):
                found.append(await disk.vpd(code))
    facts: dict[str, Any] = {
        "serial": "",
        "identity": "",
        "designators": [],
        "solid_state": None,
        "provisioning": "full",
    }
    for page in found:
        match page:
            case UnitSerialNumber():
                facts["serial"] = page.serial
            case DeviceIdentification():
                facts["identity"] = page.unit_identity
                facts["designators"] = [
                    {"of": _ASSOCIATIONS[d.association], "type": d.kind, "value": d.text} for d in page.designators
                ]
            case BlockDeviceCharacteristics():
                facts["solid_state"] = page.solid_state
            case LogicalBlockProvisioning():
                facts["provisioning"] = _PROVISIONING.get(page.provisioning_type, "full")
    return facts


def _show(found: dict[str, Any]) -> None:
    target, disk, session, limits = found["target"], found["disk"], found["session"], found["limits"]
    blocks = f"blocks of {disk['block_bytes']} bytes, physical {disk['physical_block_bytes']}"
    most = limits["maximum_transfer_length"] * disk["block_bytes"]
    burst, segment = session["max_burst_length"], session["max_recv_data_segment_length"]
    lines = {
        "URL": found["url"],
        "Target": f"{target['name']} {target['alias']}".strip(),
        "Portal": f"{target['portal']}, portal group {target['portal_group_tag']}",
        "LUNs": ", ".join(map(str, target["luns"])),
        "Device": f"{disk['vendor']} {disk['product']} {disk['revision']}, {disk['type']}",
        "Size": f"{disk['size_bytes']} bytes ({options.size_text(disk['size_bytes'])}), {blocks}",
        "Serial": disk["serial"] or "none",
        "Identity": disk["identity"] or "none",
        "Write cache": "on: data is durable after a flush" if disk["write_cache"] else "off",
        "Provisioning": disk["provisioning"],
        "Longest command": options.size_text(most) if most else "no limit reported",
        "Session": f"bursts of {options.size_text(burst)}, segments of {options.size_text(segment)}",
    }
    for name, value in lines.items():
        click.echo(f"{name + ':':<17}{runtime.printable(value)}")

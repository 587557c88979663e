"""``csv-initiator info``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import click

from initiator import client
from initiator.cli import options, reserve, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.path_options import PathChoice, several_paths
from initiator.disk import Disk
from initiator.errors import CommandFailed, MalformedAnswer
from initiator.multipath_options import PathStatus
from initiator.scsi.inquiry import (
    BlockDeviceCharacteristics,
    DeviceIdentification,
    LogicalBlockProvisioning,
    UnitSerialNumber,
    VpdPage,
)
from initiator.scsi.mode import Caching
from initiator.scsi.vpd_copy import ThirdPartyCopy
from initiator.url import IscsiUrl

_PAGES: Final = (0x80, 0x83, 0x8F, 0xB1, 0xB2)
_PROVISIONING: Final = {1: "resource", 2: "thin"}
_CACHE: Final = {None: "not told", True: "on: data is durable after a flush", False: "off"}
_ASSOCIATIONS: Final = ("unit", "port", "target", "reserved")

_ABILITIES: Final = {
    "write same": (0x93, None),
    "compare and write": (0x89, None),
    "verify": (0x8F, None),
    "lba status": (0x9E, 0x12),
    "persistent reservations": (0x5F, 0x00),
    "extended copy": (0x83, 0x00),
    "token copy": (0x83, 0x11),
}
"""What people ask for, and the command by which a disk has it."""


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@login_options
@several_paths
@options.json_option
def info(url: IscsiUrl, login: Login, paths: PathChoice, as_json: bool) -> None:
    """Show what a disk says of itself: size, identity, limits, caching, provisioning, access states, reservations,
    what it can do, and what the session agreed on.

    \b
    Examples:
      csv-initiator info iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator info iscsi://joe@192.0.2.7/iqn.2026-11.org.csvd:disk/0 --chap-secret-file joe.secret --json
    """
    how = login.of(url.user, recover=False)

    async def work(reactor: Any) -> dict[str, Any]:
        async with client.connect(paths.to(url), multipath=paths.how(), reactor=reactor, **how) as disk:
            return await _gather(url, disk)

    found = runtime.run(work)
    if as_json:
        options.echo_json(found)
    else:
        _show(found)


def _path(path: PathStatus) -> dict[str, Any]:
    return {"url": path.url, "state": path.words, "preferred": path.preferred, "why": path.why}


async def _gather(url: IscsiUrl, disk: Disk) -> dict[str, Any]:
    pages = await _pages(disk)
    session, inquiry, capacity = disk.session, await disk.inquiry(), disk.capacity
    found: dict[str, Any] = {
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
            "write_cache": None,
        }
        | pages,
        "limits": asdict(disk.limits),
        "caching": None,
        "read_only": None,
        "access": None,
        "reservations": None,
        "abilities": None,
        "session": asdict(session.parameters) | {"connections": session.connections},
        "paths": [_path(path) for path in disk.paths],
    }
    with suppress(CommandFailed, MalformedAnswer):
        found["disk"]["write_cache"] = await disk.write_cache_enabled()
    # Not every target has these, a reservation of somebody else may forbid them, and an answer that is garbled must not
    # keep us from showing the others.
    for name, ask in (
        ("caching", _caching),
        ("access", _access),
        ("reservations", reserve.gather),
        ("abilities", _abilities),
    ):
        with suppress(CommandFailed, MalformedAnswer):
            found[name] = await ask(disk)
    if found["caching"] is not None:
        found["read_only"] = found["caching"].pop("read_only")
    return found


async def _pages(disk: Disk) -> dict[str, Any]:
    """Give what the VPD pages say; a page that the target refuses or garbles is left out."""
    found: list[VpdPage] = []
    listed = await disk.supported_pages()
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
        "unmap": False,
        "unmapped_reads_zeros": disk.capacity.read_zeros,
        "copy": None,
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
                facts["unmap"] = page.unmap
            case ThirdPartyCopy():
                facts["copy"] = {
                    "maximum_segments": page.maximum_segment_descriptors,
                    "maximum_segment_bytes": page.maximum_segment_bytes,
                    "maximum_token_blocks": page.maximum_token_blocks,
                }
    return facts


async def _caching(disk: Disk) -> dict[str, Any]:
    parameters = await disk.mode_sense(0x08)
    page = parameters.page(0x08)
    return {
        "read_only": parameters.write_protected,
        "fua": parameters.dpo_and_fua,
        "write_cache": isinstance(page, Caching) and page.write_cache_enabled,
        "read_cache": isinstance(page, Caching) and not page.read_cache_disabled,
    }


async def _access(disk: Disk) -> list[dict[str, Any]]:
    return [
        {
            "group": group.tag,
            "state": group.state.name.lower().replace("_", " "),
            "preferred": group.preferred,
            "ports": list(group.ports),
        }
        for group in (await disk.target_port_groups()).groups
    ]


async def _abilities(disk: Disk) -> list[str]:
    commands = await disk.supported_commands()
    known = {(command.operation_code, command.service_action) for command in commands}
    codes = {code for code, _ in known}
    return [
        name
        for name, (code, action) in _ABILITIES.items()
        if (code in codes if action is None else (code, action) in known)
    ]


def _show(found: dict[str, Any]) -> None:
    for name, value in _lines(found).items():
        click.echo(f"{name + ':':<17}{runtime.printable(value)}")


def _lines(found: dict[str, Any]) -> dict[str, str]:
    target, disk, session, limits = found["target"], found["disk"], found["session"], found["limits"]
    blocks = f"blocks of {disk['block_bytes']} bytes, physical {disk['physical_block_bytes']}"
    most = limits["maximum_transfer_length"] * disk["block_bytes"]
    burst, segment = session["max_burst_length"], session["max_recv_data_segment_length"]
    connections = f"{session['connections']} connection{'' if session['connections'] == 1 else 's'}"
    lines = {
        "URL": found["url"],
        "Target": f"{target['name']} {target['alias']}".strip(),
        "Portal": f"{target['portal']}, portal group {target['portal_group_tag']}",
        "LUNs": ", ".join(map(str, target["luns"])),
        "Device": f"{disk['vendor']} {disk['product']} {disk['revision']}, {disk['type']}",
        "Size": f"{disk['size_bytes']} bytes ({options.size_text(disk['size_bytes'])}), {blocks}",
        "Serial": disk["serial"] or "none",
        "Identity": disk["identity"] or "none",
        "Write cache": _CACHE[disk["write_cache"]],
        "Provisioning": _provisioning(disk),
        "Longest command": options.size_text(most) if most else "no limit reported",
        "Session": f"{connections}, bursts of {options.size_text(burst)}, segments of {options.size_text(segment)}",
    }
    if found["read_only"]:
        lines["Read-only"] = "yes"
    if found["access"] is not None:
        lines["Access"] = "; ".join(map(_group, found["access"])) or "no groups"
    if found["reservations"] is not None:
        lines["Reservation"] = _reservation(found["reservations"])
    if found["abilities"] is not None:
        lines["Abilities"] = ", ".join(found["abilities"]) or "none of those looked for"
    for number, path in enumerate(found["paths"], 1):
        why = f" ({path['why']})" if path["why"] else ""
        lines[f"Path {number}"] = f"{path['url']} {path['state']}{why}"
    return lines


def _provisioning(disk: dict[str, Any]) -> str:
    more = ["unmap"] if disk["unmap"] else []
    if disk["unmap"] and disk["unmapped_reads_zeros"]:
        more.append("unmapped blocks read as zeros")
    return ", ".join([disk["provisioning"], *more])


def _group(group: dict[str, Any]) -> str:
    ports = ", ".join(map(str, group["ports"]))
    preferred = ", preferred" if group["preferred"] else ""
    return f"group {group['group']} {group['state']}{preferred} (ports {ports})"


def _reservation(found: dict[str, Any]) -> str:
    held, keys = found["reservation"], len(found["keys"])
    registered = f"{keys} key{'' if keys == 1 else 's'} registered"
    return f"{held['type']} by {held['key']}, {registered}" if held else f"none, {registered}"

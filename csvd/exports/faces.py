"""Targets, logical units and sections of the configuration as the control API shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from csvd.api.errors import NotFound
from csvd.config.targets import LunSection, TargetSection
from csvd.exports.changes import Changes, TargetEntry, lun_origin, origin_of
from csvd.scsi.logical_unit import LogicalUnit
from csvd.storage.open import kind_of

Json = dict[str, Any]


def section_face(section: Any) -> Json:
    """A section as JSON, by its keys; of secrets it has the names of their files."""
    return {field.name: _value(getattr(section, field.name)) for field in fields(section)}


def _value(value: Any) -> Any:
    if is_dataclass(value):
        return section_face(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: _value(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_value(each) for each in value]
    return value


def target_face(
    section: TargetSection,
    origin: str,
    sessions: Sequence[Json],
    addresses: Sequence[str],
) -> Json:
    """A target: its keys without those of its units and its access list, and what it is at."""
    face = section_face(section)
    del face["lun"], face["acl"]
    return {
        **face,
        "scope": "node",
        "origin": origin,
        "addresses": list(addresses),
        "unit_count": len(section.lun),
        "acl_count": len(section.acl),
        "sessions": [
            {"initiator": session["initiator"], "tsih": session["tsih"], "peers": session["peers"]}
            for session in sessions
        ],
    }


def lun_of(section: TargetSection, number: int) -> LunSection:
    """The logical unit of a number that a target has. Raises NotFound."""
    for lun in section.lun:
        if lun.number == number:
            return lun
    known = ", ".join(str(lun.number) for lun in section.lun)
    raise NotFound(f"there is no LUN {number}", where=section.name, hint=f"there are: {known}" if known else "")


def lun_face(target: str, section: LunSection, unit: Json, origin: str) -> Json:
    """A logical unit: its keys, and what they came to: see `unit_face`."""
    return {"target": target, **section_face(section), **unit, "origin": origin}


def unit_face(unit: LogicalUnit) -> Json:
    """What a logical unit is."""
    return {
        "number": unit.number,
        "disk": unit.device.url,
        "disk_kind": kind_of(unit.device.url),
        "fence": unit.device.capabilities.fence,
        "size_bytes": unit.device.size_bytes,
        "block_bytes": unit.block_bytes,
        "physical_block_bytes": unit.physical_block_bytes,
        "read_only": unit.read_only,
        "removable": unit.removable,
        "thin": unit.thin,
        "write_cache": unit.write_cache,
        "vendor": unit.identity.vendor,
        "product": unit.identity.product,
        "revision": unit.identity.revision,
        "serial": unit.identity.serial,
        "naa": unit.identity.naa.hex(),
    }


def origins_of(sections: Sequence[TargetSection], changes: Changes) -> dict[str, str]:
    """Where each target, logical unit and entry of an access list is from, by what they are."""
    origins: dict[str, str] = {}
    for section in sections:
        name = section.name
        entry = changes.targets.get(name, TargetEntry())
        origins[name] = origin_of(changes.targets, name)
        origins |= {f"{name} lun {lun.number}": lun_origin(changes, name, lun.number) for lun in section.lun}
        origins |= {f"{name} acl {acl.initiator}": origin_of(entry.acl, acl.initiator) for acl in section.acl}
    return origins

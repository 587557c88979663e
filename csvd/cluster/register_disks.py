"""The shared disks of the register: the coordinator of each, by compare-and-set on its epoch. PURE.

To be named here is the first of what a node needs to act as the coordinator of a disk; see csvd.cluster.coordination.
Every claim has an epoch of its own, which only grows, also over removal and adding of a disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from csvd.cluster.register_fields import (
    Answer,
    Operation,
    Refusal,
    check_flag,
    check_list,
    check_mapping,
    check_node,
    check_number,
)
from csvd.cluster.register_members import Members

MAXIMUM_DISKS: Final = 64
MAXIMUM_URL_CHARACTERS: Final = 1024

DISK_NAME_RULE: Final = "1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def is_disk_name(value: object) -> bool:
    """Whether a value is the name of a shared disk."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """A shared disk.

    Attributes:
        name: what people call it.
        url: where it is, the same on every node.
        uuid: what it was given when it was formatted.
        coordinator: the id of the node that claimed it last; empty before the first claim.
        epoch: of that claim.
        is_system: it is the first that was added: the cluster's exports and reservations are kept on it.
        is_pinned: a person chose this coordinator: it is not moved for balance alone.
    """

    name: str
    url: str
    uuid: str
    coordinator: str = ""
    epoch: int = 0
    is_system: bool = False
    is_pinned: bool = False

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object with the names of its fields."""
        return {
            "name": self.name,
            "url": self.url,
            "uuid": self.uuid,
            "coordinator": self.coordinator,
            "epoch": self.epoch,
            "is_system": self.is_system,
            "is_pinned": self.is_pinned,
        }


class Disks:
    """The table of shared disks."""

    name = "disks"

    def __init__(self, members: Members) -> None:
        self._members = members
        self._records: dict[str, DiskRecord] = {}
        self._highest_removed_epoch = 0

    @property
    def records(self) -> Mapping[str, DiskRecord]:
        """The disks by name."""
        return self._records

    def operations(self) -> Mapping[str, Operation]:
        """The operations on disks."""
        return {
            "disk_add": Operation(
                {"name": _name, "url": _url, "uuid": _uuid}, self._add, optional={"epoch": check_number}
            ),
            "disk_remove": Operation({"name": _name}, self._remove),
            "disk_claim": Operation(
                {"name": _name, "node": check_node, "expected_epoch": check_number},
                self._claim,
                optional={"above": check_number, "is_pinned": check_flag},
            ),
        }

    def snapshot(self) -> dict[str, Any]:
        """The disks, sorted by name."""
        return {
            "highest_removed_epoch": self._highest_removed_epoch,
            "records": [disk.to_json() for _, disk in sorted(self._records.items())],
        }

    def restore(self, part: Any) -> None:
        """Become the state of a snapshot's part."""
        self._highest_removed_epoch = check_number(check_mapping(part)["highest_removed_epoch"])
        for item in check_list(part["records"], at_most=MAXIMUM_DISKS):
            disk = _record(check_mapping(item))
            self._records[disk.name] = disk

    def _add(self, name: str, url: str, uuid: str, epoch: int = 0) -> Answer:
        """`epoch`: the one that the disk itself has been seen with, from a life before."""
        for other in self._records.values():
            if other.name == name:
                raise Refusal(f"there is a disk {name} in the cluster already")
            if other.uuid == uuid or other.url == url:
                raise Refusal(f"it is in the cluster already, as {other.name}")
        if len(self._records) >= MAXIMUM_DISKS:
            raise Refusal(f"the register holds {MAXIMUM_DISKS} disks, no more")
        is_system = not any(other.is_system for other in self._records.values())
        return self._stored(
            DiskRecord(name, url, uuid, "", max(epoch, self._highest_removed_epoch), is_system=is_system)
        )

    def _remove(self, name: str) -> Answer:
        disk = self._required(name)
        if disk.is_system and len(self._records) > 1:
            raise Refusal(f"{name} is the system disk: the other disks go first")
        del self._records[name]
        # So that no epoch of a disk is ever seen twice, should it be added again.
        self._highest_removed_epoch = max(self._highest_removed_epoch, disk.epoch)
        return {"name": name}

    def _claim(self, name: str, node: str, expected_epoch: int, above: int = 0, is_pinned: bool = False) -> Answer:
        """`above`: an epoch that the disk or a voter has been seen with; the new one is higher."""
        disk = self._required(name)
        if self._members.require(node).is_witness:
            raise Refusal(f"{node} is a witness and holds no office")
        if disk.epoch != expected_epoch:
            raise Refusal(f"the epoch of {name} is {disk.epoch}, of {disk.coordinator or 'nobody'}")
        return self._stored(replace(disk, coordinator=node, epoch=max(disk.epoch, above) + 1, is_pinned=is_pinned))

    def _required(self, name: str) -> DiskRecord:
        disk = self._records.get(name)
        if disk is None:
            raise Refusal(f"there is no disk {name} in the cluster")
        return disk

    def _stored(self, disk: DiskRecord) -> Answer:
        self._records[disk.name] = disk
        return disk.to_json()


def _name(value: object) -> str:
    if not is_disk_name(value):
        raise Refusal(f"the name of a disk is {DISK_NAME_RULE}")
    return str(value)


def _url(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAXIMUM_URL_CHARACTERS or not value.isprintable():
        raise Refusal(f"the URL of a disk has 1 to {MAXIMUM_URL_CHARACTERS} characters")
    return value


def _uuid(value: object) -> str:
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise Refusal("the uuid of a disk is 32 hexadecimal digits in five groups")
    return value


def _record(record: Mapping[str, Any]) -> DiskRecord:
    coordinator = record["coordinator"]
    return DiskRecord(
        _name(record["name"]),
        _url(record["url"]),
        _uuid(record["uuid"]),
        check_node(coordinator) if coordinator else "",
        check_number(record["epoch"]),
        is_system=check_flag(record["is_system"]),
        is_pinned=check_flag(record["is_pinned"]),
    )

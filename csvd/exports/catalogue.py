"""What the cluster exports: targets, logical units and access lists as they are kept on the system disk. PURE.

One record is one target. It holds keys of ``[[target]]``, ``[[target.lun]]`` and ``[[target.acl]]`` as a person gave
them, with two differences: what is each node's own is not in it, and in the place of a file with a secret there is the
secret, sealed. The serial number and NAA designator of a logical unit are made once, when it is added, and kept: so
they are the same on every node, whatever its disk is called there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from csvd.api.errors import BadRequest, NotFound, Refused
from csvd.exports.difference import lowest_free
from csvd.iscsi.names import check_iscsi_name
from csvd.scsi.logical_unit import naa_of

MAX_TARGETS: Final = 128
MAX_LUNS: Final = 256
"""Of one target."""
MAX_ACL: Final = 256
"""Entries of the access list of one target."""
MAX_TARGET_BYTES: Final = 128 << 10
MAX_BYTES: Final = 448 << 10
"""Of all records: they fit a call to a node, and leave the other services their room on the disk."""

Keys: TypeAlias = dict[str, Any]

SECRET_KEYS: Final = {"secret_file": "secret", "mutual_secret_file": "mutual_secret", "disk_secret_file": "disk_secret"}
"""The keys that name files with secrets, and those that hold the sealed secrets in their place."""

_TARGET_KEYS: Final = ("alias", "initiators", "networks", "queue_depth", "chap")
_NODES_OWN: Final = ("portals", "portal_group_tag", "portal_group", "access_state", "redirect")
_NOT_OF_LUNS: Final = {
    "number": "a logical unit keeps its number",
    "create": "a disk is made once, when its logical unit is added",
    "disk_initiator_name": "each node calls itself by a name of its own",
    "disk_secret_file": "a secret is sealed before it leaves the node that was given it",
}


class LunRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A logical unit.

    Args:
        keys: those of ``[[target.lun]]`` that were given.
        serial, naa: its identity, of which the latter is hexadecimal.
    """

    keys: Keys
    serial: str
    naa: str


class TargetRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A target; its logical units by number, and the keys of its access list by initiator."""

    keys: Keys = {}
    luns: dict[str, LunRecord] = {}
    acl: dict[str, Keys] = {}


Catalogue: TypeAlias = Mapping[str, TargetRecord]
"""All targets by name."""


# Edits: what a node asks the coordinator for.


class Edit(msgspec.Struct, forbid_unknown_fields=True, tag_field="edit", frozen=True):
    """A change of one target."""

    target: str


class CreateTarget(Edit, tag="create target", frozen=True):
    """Serve another target."""

    keys: Keys = {}


class SetTarget(Edit, tag="set target", frozen=True):
    """Change keys of a target; None is the default again."""

    keys: Keys = {}


class RemoveTarget(Edit, tag="remove target", frozen=True):
    """Serve a target no more."""


class AddLun(Edit, tag="add lun", frozen=True):
    """Serve another logical unit; without a number, at the lowest LUN that is free."""

    keys: Keys = {}
    number: int | None = None


class SetLun(Edit, tag="set lun", frozen=True, kw_only=True):
    """Change keys of a logical unit; None is the default again, but for its identity, which stays."""

    number: int
    keys: Keys = {}


class RemoveLun(Edit, tag="remove lun", frozen=True, kw_only=True):
    """Serve a logical unit no more."""

    number: int


class AddAcl(Edit, tag="add acl", frozen=True, kw_only=True):
    """Let an initiator log in."""

    initiator: str
    keys: Keys = {}


class SetAcl(Edit, tag="set acl", frozen=True, kw_only=True):
    """Change what holds for an initiator of the access list."""

    initiator: str
    keys: Keys = {}


class RemoveAcl(Edit, tag="remove acl", frozen=True, kw_only=True):
    """Let an initiator log in no more."""

    initiator: str


AnyEdit: TypeAlias = CreateTarget | SetTarget | RemoveTarget | AddLun | SetLun | RemoveLun | AddAcl | SetAcl | RemoveAcl


def edited(catalogue: Catalogue, edit: AnyEdit, make_serial: Callable[[], str]) -> tuple[str, TargetRecord | None, str]:
    """Carry an edit out on a copy.

    Args:
        make_serial: gives a serial number that no logical unit ever had.

    Returns:
        The name of the target, what becomes of it (None: it is gone), and a sentence that tells of it.

    Raises:
        BadRequest: a key is none of the cluster's. What its values are is checked elsewhere.
        NotFound, Refused: as things are.
    """
    if isinstance(edit, CreateTarget):
        name = check_iscsi_name(edit.target)
        if name in catalogue:
            raise Refused("the target is there already", where=name)
        _check_target_keys(edit.keys, name)
        return name, TargetRecord(keys=_without_defaults(edit.keys)), f"target {name} was made"
    name = edit.target.lower()
    if name not in catalogue:
        known = ", ".join(sorted(catalogue))
        raise NotFound(
            "the cluster has no such target", where=name[:250], hint=f"there are: {known}"[:1000] if known else ""
        )
    if isinstance(edit, RemoveTarget):
        return name, None, f"target {name} was removed"
    record = copy.deepcopy(catalogue[name])
    if isinstance(edit, SetTarget):
        _check_target_keys(edit.keys, name)
        record.keys = _laid_over(record.keys, edit.keys)
        return name, record, f"target {name} was changed: {', '.join(sorted(edit.keys))}"
    if isinstance(edit, AddAcl | SetAcl | RemoveAcl):
        return name, record, _edit_acl(record, name, edit)
    return name, record, _edit_luns(catalogue, record, name, edit, make_serial)


def secrets_of(catalogue: Catalogue) -> list[dict[str, str]]:
    """What secrets there are, without them: of each its ``target``, ``what`` it is (a key of the configuration), the
    ``user`` whose it is, the ``initiator`` where it is of an access list, and the ``lun`` whose disk it is for."""
    found = []
    for name, record in catalogue.items():
        tables = [(record.keys, "", ""), *((keys, initiator, "") for initiator, keys in record.acl.items())]
        tables += [(lun.keys, "", number) for number, lun in record.luns.items()]
        for keys, initiator, number in tables:
            chap = keys.get("chap") or {}
            for table, key, user in (
                (chap, "secret", chap.get("user", "")),
                (chap, "mutual_secret", chap.get("mutual_user", "")),
                (keys, "disk_secret", ""),
            ):
                if table.get(key) is not None:
                    found.append({"target": name, "what": key, "user": user, "initiator": initiator, "lun": number})
    return found


def _edit_acl(record: TargetRecord, name: str, edit: AddAcl | SetAcl | RemoveAcl) -> str:
    initiator = check_iscsi_name(edit.initiator)
    is_there = initiator in record.acl
    if isinstance(edit, AddAcl):
        if is_there:
            raise Refused("the initiator is in the access list already", where=initiator)
        record.acl[initiator] = _without_defaults(edit.keys)
        return f"{initiator} may log in to {name}"
    if not is_there:
        raise NotFound("the initiator is not in the access list", where=initiator)
    if isinstance(edit, SetAcl):
        record.acl[initiator] = _laid_over(record.acl[initiator], edit.keys)
        return f"what holds for {initiator} at {name} was changed: {', '.join(sorted(edit.keys))}"
    del record.acl[initiator]
    if not record.acl and record.keys.get("initiators") is None:
        # Without a list all may log in, which is not what is asked for.
        record.keys = {**record.keys, "initiators": []}
    return f"{initiator} may no longer log in to {name}"


def _edit_luns(
    catalogue: Catalogue,
    record: TargetRecord,
    name: str,
    edit: AddLun | SetLun | RemoveLun,
    make_serial: Callable[[], str],
) -> str:
    if isinstance(edit, AddLun):
        number = lowest_free([int(taken) for taken in record.luns]) if edit.number is None else edit.number
        if str(number) in record.luns:
            raise Refused(f"LUN {number} is taken", where=name)
        _check_lun_keys(edit.keys, name)
        record.luns[str(number)] = _identified(catalogue, _without_defaults(edit.keys), make_serial)
        return f"LUN {number} of {name} was added"
    number, key = edit.number, str(edit.number)
    if key not in record.luns:
        known = ", ".join(record.luns)
        raise NotFound(f"there is no LUN {number}", where=name, hint=f"there are: {known}" if known else "")
    if isinstance(edit, RemoveLun):
        del record.luns[key]
        return f"LUN {number} of {name} was removed"
    _check_lun_keys(edit.keys, name)
    before = record.luns[key]
    record.luns[key] = _named(_laid_over(before.keys, edit.keys), before.serial, before.naa)
    return f"LUN {number} of {name} was changed: {', '.join(sorted(edit.keys))}"


def _identified(catalogue: Catalogue, keys: Keys, make_serial: Callable[[], str]) -> LunRecord:
    """A new logical unit. One over a disk that the cluster exports already is the same one to initiators."""
    known = next(
        (lun for target in catalogue.values() for lun in target.luns.values() if _disk(lun) == keys.get("disk")), None
    )
    if known is None:
        return _named(keys, make_serial() if "serial" not in keys else "", "")
    return _named(keys, known.serial, known.naa)


def _named(keys: Keys, serial: str, naa: str) -> LunRecord:
    """A logical unit with the identity that its keys say, or else with this one."""
    said = keys.get("serial", serial)
    if said != serial or not naa:
        # What is no text is refused when the values are checked; it takes no error here.
        naa = naa_of(str(said)).hex()
    return LunRecord(keys=keys, serial=said, naa=keys.get("naa", naa))


def _disk(lun: LunRecord) -> Any:
    return lun.keys.get("disk")


def _check_target_keys(keys: Keys, name: str) -> None:
    for key in keys:
        if key in _NODES_OWN:
            raise BadRequest(
                f"{key} is each node's own, not the cluster's",
                where=name,
                hint="set cluster.portals in each node's configuration; --local makes a target of one node",
            )
        if key == "name":
            raise BadRequest("a target keeps its name", where=name)
        if key not in _TARGET_KEYS:
            raise BadRequest(
                f"a target of the cluster has no {key[:60]}", where=name, hint=f"known: {', '.join(_TARGET_KEYS)}"
            )


def _check_lun_keys(keys: Keys, name: str) -> None:
    disk = keys.get("disk")
    if isinstance(disk, str) and not disk.startswith("/") and ":" not in disk:
        raise BadRequest("a disk of the cluster is a path from the root, or a URL", where=name, why=disk[:200])
    for key in keys:
        if key in _NOT_OF_LUNS:
            raise BadRequest(f"{key} can not be given here", where=name, why=_NOT_OF_LUNS[key])
    if keys.get("direct") is False:
        raise BadRequest(
            "a disk of the cluster is never served through the page cache",
            where=name,
            why="what another host has written is not in the cache of this one",
            hint="leave out --cached; --local makes a target of one node",
        )


def _without_defaults(keys: Keys) -> Keys:
    return {key: value for key, value in keys.items() if value is not None}


def _laid_over(before: Keys, keys: Keys) -> Keys:
    return _without_defaults({**before, **keys})


def check_bounds(catalogue: Catalogue) -> None:
    """Check what no single target shows: how many there are, how much they take, whose identity is whose.

    Raises:
        Refused: too many, too large, or two disks would be one to initiators.
    """
    if len(catalogue) > MAX_TARGETS:
        raise Refused(f"the cluster has {MAX_TARGETS} targets already, as many as it takes")
    sizes = {name: len(msgspec.json.encode(record)) for name, record in catalogue.items()}
    for name, record in catalogue.items():
        if len(record.luns) > MAX_LUNS:
            raise Refused(f"a target has at most {MAX_LUNS} logical units", where=name)
        if len(record.acl) > MAX_ACL:
            raise Refused(f"an access list has at most {MAX_ACL} entries", where=name)
        if sizes[name] > MAX_TARGET_BYTES:
            raise Refused(f"a target takes at most {MAX_TARGET_BYTES} bytes", where=name, why=f"{sizes[name]} bytes")
    if sum(sizes.values()) > MAX_BYTES:
        raise Refused(f"all targets take {sum(sizes.values())} bytes, more than {MAX_BYTES}")
    disks: dict[str, Any] = {}
    for name, record in catalogue.items():
        for number, lun in record.luns.items():
            if disks.setdefault(str(lun.naa).lower(), _disk(lun)) != _disk(lun):
                raise Refused(
                    f"LUN {number} has the NAA designator of another disk of the cluster",
                    where=name,
                    why=f"{lun.naa} is {disks[str(lun.naa).lower()]}'s",
                    hint="initiators would take two disks for one: give it another naa or serial",
                )

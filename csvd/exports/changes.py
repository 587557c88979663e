"""What was changed at run time: kept in a file of the state directory, and laid over the configuration at each start.

The file holds, for each target, logical unit and entry of an access list that a person made, changed or removed, how
it differs from the configuration file, by the same keys. What was changed at run time goes before what the
configuration file says. A target or logical unit that was made at run time and is in the configuration file, too, is a
conflict: nobody can say which is meant, so the start ends with an error that names both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from csvd.config.load import Source
from csvd.durable_file import replace_file
from csvd.errors import ConfigError
from csvd.iscsi.names import normalize

FILE_NAME: Final = "targets.json"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 16 << 20

How = Literal["made", "changed", "removed", "replaced"]
"""``replaced``: removed from what the configuration file says, and made anew."""

Keys = dict[str, Any]


class Entry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that differs from the configuration file.

    Args:
        how: in which way.
        keys: as the configuration has them; None is a key that is left out.
    """

    how: How = "changed"
    keys: Keys = {}


class TargetEntry(Entry, forbid_unknown_fields=True, omit_defaults=True):
    """A target; its logical units by number, its access list by initiator."""

    luns: dict[str, Entry] = {}
    acl: dict[str, Entry] = {}


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """All of them, targets by name."""

    version: int = VERSION
    targets: dict[str, TargetEntry] = {}

    def copy(self) -> Changes:
        """A copy that can be changed."""
        return copy.deepcopy(self)


# The file


def read_changes(directory: Path) -> Changes:
    """Read the file of a state directory; no changes where there is none.

    Raises:
        ConfigError: it can not be read, or is not what was written.
    """
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Changes()
    except OSError as error:
        raise ConfigError("can not be read", where=str(path), why=error.strerror or str(error)) from error
    try:
        found = msgspec.json.decode(data, type=Changes)
    except (msgspec.DecodeError, RecursionError) as error:
        hint = "restore it from a backup, or remove it: what was changed at run time is forgotten then"
        raise ConfigError("is not what csvd wrote", where=str(path), why=str(error), hint=hint) from error
    if found.version != VERSION:
        why = f"it is of version {found.version}, this csvd knows version {VERSION}"
        raise ConfigError("can not be read", where=str(path), why=why, hint="start the csvd that wrote it")
    return found


def write_changes(directory: Path, changes: Changes) -> None:
    """Replace the file as a whole, durably. Blocks.

    Raises:
        ConfigError: it can not be written; the file that was there is as it was.
    """
    path = directory / FILE_NAME
    data = msgspec.json.format(msgspec.json.encode(changes), indent=2) + b"\n"
    try:
        replace_file(path, data)
    except OSError as error:
        raise ConfigError("can not be written", where=str(path), why=error.strerror or str(error)) from error


# Laying changes over a configuration


def merge(source: Source, changes: Changes, *, where: str) -> Source:
    """Give the configuration with the changes in it.

    Args:
        where: the name of the changes in errors.

    Raises:
        ConfigError: something was made at run time, and the configuration has it, too.
    """
    targets = list(_tables(source.found.get("target")))
    merged = _merge_all(targets, "name", changes.targets, f"{source.where}: target", where, _merge_target)
    if merged is None:
        return source
    return Source({**source.found, "target": merged}, source.where, source.directory)


def _tables(found: Any) -> Iterator[Any]:
    """The tables of an array, or the only one; what is neither stays, for the check to tell of it."""
    if isinstance(found, Mapping):
        yield found
    elif isinstance(found, list):
        yield from found
    elif found is not None:
        yield found


def _merge_all(
    tables: list[Any], name: str, entries: Mapping[str, Entry], file_where: str, where: str, inside: Any
) -> list[Any] | None:
    """Lay entries over tables whose key ``name`` tells which is which; None where there is nothing to do."""
    if not entries:
        return None
    merged = []
    seen = set()
    for table in tables:
        identity = _identity(table, name)
        entry = entries.get(identity) if identity is not None else None
        if entry is None or identity is None:
            merged.append(table)
            continue
        seen.add(identity)
        if entry.how == "made":
            raise ConfigError(
                f"{name} {identity} is there, and was made at run time, too",
                where=file_where,
                why=f"{where} has it",
                hint="take it out of one of the two",
            )
        if entry.how != "removed":
            base = {name: table[name]} if entry.how == "replaced" else table
            merged.append(_laid_over(base, entry, inside, f"{file_where}[{identity}]", where))
    for identity, entry in entries.items():
        # Changes of what is in the configuration no more have nothing to change.
        if identity not in seen and entry.how in ("made", "replaced"):
            key: Any = int(identity) if name == "number" else identity
            merged.append(_laid_over({name: key}, entry, inside, f"{file_where}[{identity}]", where))
    return merged


def _identity(table: Any, name: str) -> str | None:
    if not isinstance(table, Mapping) or name not in table:
        return None
    value = table[name]
    return normalize(value) if isinstance(value, str) else str(value)


def _laid_over(table: Mapping[str, Any], entry: Entry, inside: Any, file_where: str, where: str) -> Keys:
    laid = {**table, **entry.keys}
    laid = {key: value for key, value in laid.items() if value is not None}
    return inside(laid, entry, file_where, where) if inside is not None else laid


def _merge_target(table: Keys, entry: TargetEntry, file_where: str, where: str) -> Keys:
    for key, name, entries in (("lun", "number", entry.luns), ("acl", "initiator", entry.acl)):
        found = table.get(key, [])
        if isinstance(found, list):
            merged = _merge_all(found, name, entries, f"{file_where}.{key}", where, None)
            if merged is not None:
                table[key] = merged
    return table


# Telling where something is from


def origin_of(entries: Mapping[str, Entry], identity: str) -> str:
    """Where a thing that is there is from: ``file``, ``run time``, or ``file, changed at run time``."""
    entry = entries.get(identity)
    if entry is None:
        return "file"
    if entry.how in ("made", "replaced"):
        return "run time"
    return f"file, changed at run time: {', '.join(sorted(entry.keys))}" if entry.keys else "file"


def lun_origin(changes: Changes, name: str, number: int) -> str:
    """Where a logical unit is from; with a target that was made at run time, all in it was."""
    entry = changes.targets.get(name)
    if entry is None:
        return "file"
    return "run time" if entry.how in ("made", "replaced") else origin_of(entry.luns, str(number))


# Changing


def make(entries: dict[str, Any], identity: str, entry: Entry) -> None:
    """Note that something was made that is not there."""
    before = entries.get(identity)
    entry.how = "replaced" if before is not None and before.how in ("removed", "replaced") else "made"
    entries[identity] = entry


def change(entries: dict[str, Any], identity: str, keys: Keys, kind: type[Entry]) -> None:
    """Note other keys of something that is there."""
    entry = entries.setdefault(identity, kind())
    entry.keys = {**entry.keys, **keys}


def remove(entries: dict[str, Any], identity: str, kind: type[Entry]) -> None:
    """Note that something that is there was removed."""
    before = entries.get(identity)
    if before is not None and before.how == "made":
        del entries[identity]
    else:
        entries[identity] = kind(how="removed")

"""From a record of the cluster's catalogue to a section of the configuration, checked by the same rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from csvd.api.errors import BadRequest
from csvd.config.load import ConfigProblems, Source, complete
from csvd.config.targets import TargetSection
from csvd.errors import ConfigError
from csvd.exports.build import access_of, settings_of
from csvd.exports.catalogue import SECRET_KEYS, Keys, LunRecord, TargetRecord
from csvd.exports.sealing import Sealing, name_of
from csvd.scsi.logical_unit import Identity
from csvd.storage.open import kind_of

_WHERE: Final = "the cluster"
_FOLDER: Final = "/sealed"
"""Names of sealed secrets look like files in it; what is sealed anew has another name, so that the change is seen."""


def place_of_secret(target: str, what: str, initiator: str = "") -> str:
    """What a secret is for, in words that are sealed with it."""
    return " ".join(word for word in (what, "of", target, initiator) if word)


def _with_secrets(keys: Mapping[str, Any], change: Callable[[Keys, str, str], None]) -> Keys:
    """Give a copy of a table, and of that of CHAP in it, in each of which every kind of secret was changed.

    Args:
        change: has the table, the key of a file with the secret, and that of the secret itself.
    """
    found = dict(keys)
    if isinstance(found.get("chap"), Mapping):
        found["chap"] = _with_secrets(found["chap"], change)
    for file_key, key in SECRET_KEYS.items():
        change(found, file_key, key)
    return found


def sealed_keys(
    keys: Mapping[str, Any], target: str, sealing: Sealing, read: Callable[[Path], bytes], initiator: str = ""
) -> Keys:
    """Give keys with the secrets, sealed, in the place of the files that they name.

    Args:
        read: gives what a file with a secret holds; raises ConfigError.
    """

    def seal(table: Keys, file_key: str, key: str) -> None:
        if isinstance(table.get(file_key), str):
            secret = read(Path(table.pop(file_key)))
            table[key] = sealing.seal(secret, place_of_secret(target, key, initiator))
        elif file_key in table and table[file_key] is None:
            table[key] = table.pop(file_key)

    return _with_secrets(keys, seal)


def resealed(name: str, record: TargetRecord, sealing: Sealing, key_id: str) -> TargetRecord:
    """Give a target with all its secrets sealed by this key.

    Raises:
        SealBroken: one of them does not open.
    """

    def table(keys: Keys, initiator: str = "") -> Keys:
        def reseal(found: Keys, _file_key: str, key: str) -> None:
            if isinstance(found.get(key), str):
                found[key] = sealing.resealed(found[key], place_of_secret(name, key, initiator), key_id)

        return _with_secrets(keys, reseal)

    return TargetRecord(
        keys=table(record.keys),
        luns={number: LunRecord(table(lun.keys), lun.serial, lun.naa) for number, lun in record.luns.items()},
        acl={initiator: table(keys, initiator) for initiator, keys in record.acl.items()},
    )


class _Opened:
    """The secrets of one target, under names that stand for files."""

    def __init__(self, target: str, sealing: Sealing) -> None:
        self._target = target
        self._sealing = sealing
        self.secrets: dict[str, bytes] = {}

    def table(self, keys: Mapping[str, Any], initiator: str = "") -> Keys:
        """A table of the configuration."""

        def open_(table: Keys, file_key: str, key: str) -> None:
            # A path that a peer writes into a record must not be read: only what is sealed is a secret here.
            if file_key in table:
                raise BadRequest(f"{file_key} is a file of one node", where=self._target)
            if isinstance(table.get(key), str):
                table[file_key] = self._open(table.pop(key), place_of_secret(self._target, key, initiator))

        return _with_secrets(keys, open_)

    def _open(self, sealed: str, place: str) -> str:
        name = f"{_FOLDER}/{name_of(sealed, place)}"
        self.secrets[name] = self._sealing.open(sealed, place)
        return name

    def read(self, path: Path) -> bytes:
        """What is behind such a name."""
        try:
            return self.secrets[str(path)]
        except KeyError:
            raise ConfigError("there is no such secret", where=str(path)) from None


def section_of(name: str, record: TargetRecord, sealing: Sealing) -> tuple[TargetSection, Mapping[str, bytes]]:
    """Give a target as the configuration would have it, and its secrets by the names that it has for them.

    Raises:
        BadRequest: what the record says is wrong.
        SealBroken: a secret does not open.
    """
    opened = _Opened(name, sealing)
    table = {
        **opened.table(record.keys),
        "name": name,
        "lun": [
            {
                **opened.table(lun.keys),
                **_past_the_cache(lun.keys.get("disk")),
                "number": int(number),
                "serial": lun.serial,
                "naa": lun.naa,
            }
            for number, lun in sorted(record.luns.items(), key=lambda item: int(item[0]))
        ],
        "acl": [{**opened.table(keys, initiator), "initiator": initiator} for initiator, keys in record.acl.items()],
    }
    source = Source({"node": {"name": "node"}, "target": table}, _WHERE, Path("/"))
    try:
        (section,) = complete(source, opened.read).target
        _check_whole(section, opened.read)
    except ConfigProblems as error:
        one = error.problems[0]
        where = one.where.removeprefix(f"{_WHERE}: ")
        raise BadRequest(one.what, where=f"{name}: {where}", why=one.why, hint=one.hint) from error
    except ConfigError as error:
        raise BadRequest(error.what, where=f"{name}: {error.where}", why=error.why, hint=error.hint) from error
    return section, opened.secrets


def _past_the_cache(disk: object) -> Keys:
    """How a disk is opened where other hosts have it, too: what they have written is not in the page cache of this
    one. Other kinds of disks than files and block devices have none."""
    return {"direct": True} if isinstance(disk, str) and kind_of(disk) == "file" else {}


def _check_whole(section: TargetSection, read: Callable[[Path], bytes]) -> None:
    """What shows only when the target is built of it."""
    access_of(section, read)
    for lun in section.lun:
        settings = settings_of(lun, read)
        assert settings.serial is not None
        assert settings.naa is not None
        plain = Identity()
        Identity(
            vendor=settings.vendor or plain.vendor,
            product=settings.product or plain.product,
            revision=settings.revision or plain.revision,
            serial=settings.serial,
            naa=settings.naa,
        )

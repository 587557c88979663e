"""Opening a LUN of an iSCSI target as a disk."""

from __future__ import annotations

from typing import NoReturn

from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.storage.disk import Disk
from csvd.storage.iscsi.description import describe
from csvd.storage.iscsi.disk import IscsiDisk
from csvd.storage.iscsi.errors import opening_error
from csvd.storage.kind import Opening, check_size
from initiator import Credentials, InitiatorError, IscsiUrl, Login, SessionOptions, connect, isid_of, parse_url
from initiator import Disk as Unit


def open_disk(opening: Opening) -> Deferred[Disk]:
    """Log in and open a LUN.

    Its identity is the designator of the logical unit in VPD page 83h, the same on every node.

    The Deferred fails with:
        ConfigError: the URL is wrong, the login is refused, or the LUN does not fit what is asked of it.
        StorageError: the target can not be reached, or failed.
    """
    return Deferred.fromCoroutine(_open(opening))


def is_there(_url: str) -> bool:
    """A LUN is never made."""
    return False


def create_disk(url: str, _size_bytes: int, *, block_bytes: int, full: bool) -> NoReturn:
    """Refuse.

    Raises:
        ConfigError: always.
    """
    hint = "make the LUN at its target, and leave out the size"
    raise ConfigError("a disk of another target can not be created", where=url, hint=hint)


def place_of(url: str) -> str:
    """Portal, target and LUN, whoever logs in."""
    place = _parsed(url)
    return f"iscsi://{str(place.portal).lower()}/{place.target_name}/{place.lun}"


def _parsed(url: str) -> IscsiUrl:
    place = parse_url(url)
    if place.credentials is not None:
        raise ConfigError(
            "the URL of a disk has a secret in it, and everybody would see it",
            where=str(place),
            hint="write the secret to a file that only you may read, and name that (disk_secret_file)",
        )
    return place


class _Roads:
    """Logs in as a disk is to be opened."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._place = _parsed(opening.url)
        self._credentials = _credentials(self._place, opening.secret)

    async def __call__(self, who: str = "") -> Unit:
        """Open the LUN in a session of its own, which is logged in again when it is lost. That of the caretaker is
        not, and has the same name every time."""
        how = Login(
            credentials=self._credentials,
            initiator_name=self._opening.initiator_name or "",
            options=SessionOptions(timeout_s=self._opening.timeout_s),
        )
        if who:
            how["isid"] = isid_of(f"{place_of(self._opening.url)}\0{who}")
            how["recover"] = False
        return await connect(self._place, reactor=self._opening.reactor, **how)


async def _open(opening: Opening) -> Disk:
    if opening.create_bytes is not None:
        create_disk(opening.url, opening.create_bytes, block_bytes=opening.block_bytes, full=opening.full)
    roads = _Roads(opening)
    try:
        unit = await roads()
        try:
            return await _disk(opening, unit, roads)
        except BaseException:
            await unit.close()
            raise
    except InitiatorError as error:
        raise opening_error(error, where=opening.url) from error


def _credentials(place: IscsiUrl, secret: bytes | None) -> Credentials | None:
    if secret is None:
        return None
    if not place.user:
        raise ConfigError("there is a secret, and no user", where=str(place), hint="write iscsi://USER@HOST/…")
    return Credentials(place.user, secret)


async def _disk(opening: Opening, unit: Unit, roads: _Roads) -> Disk:
    if opening.block_bytes % unit.block_bytes:
        raise ConfigError(
            f"blocks of {opening.block_bytes} bytes do not go over a LUN with blocks of {unit.block_bytes}",
            where=opening.url,
            why="a part of a block would have to be read, changed and written, and what others write there lost",
            hint=f"set block_bytes to {unit.block_bytes}",
        )
    check_size(opening.url, unit.size_bytes, opening.block_bytes)
    description = await describe(unit)
    if description.write_protected and not opening.read_only:
        raise ConfigError("the LUN is write-protected", where=opening.url, hint="open it read-only")
    return IscsiDisk(
        unit,
        description,
        url=opening.url,
        read_only=opening.read_only,
        connect=roads,
        serial=opening.serial,
    )

"""What a coordinator keeps on its disk: the whole state in memory, and in two slots that are written in turn.

Changes that wait at the same time share one write. The lease is looked at before a write and again before it is said
to be done. When it has run out meanwhile, or the disk has failed, the outcome is unknown, and the office is over: the
next coordinator reads what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred

from csvd.cluster.coordination.faces import OfficeOver
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown
from csvd.cluster.json_values import JsonError, copy_json_object
from csvd.errors import CsvdError
from csvd.shared_disk import MAXIMUM_RECORDS_BYTES, RecordSlot, SharedDisk

RECORDS: Final = "records"
SESSIONS: Final = "sessions"
ANSWERS: Final = "answers"
TABLES: Final = (RECORDS, SESSIONS, ANSWERS)
"""What services keep; which nodes have a session; what asks were answered."""

MAXIMUM_KEY_CHARACTERS: Final = 512
MAXIMUM_WAITING: Final = 4096
_FORMAT: Final = 1
_OVERHEAD_BYTES: Final = 64

Changes = Mapping[str, Mapping[str, Any]]
"""By table: the new value by key, None where it goes."""


class RecordsDamaged(ClusterError):
    """What the slot holds is no state of this format."""


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    records: dict[str, Any]
    sessions: dict[str, Any]
    answers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Record:
    value: Any
    encoded: msgspec.Raw


_Made = dict[tuple[str, str], _Record | None]
"""By table and key: the new record, None where it goes."""
_Batch = list[tuple[_Made, "Deferred[None]"]]


class Records:
    """The records of one office.

    Args:
        disk: where they are kept.
        epoch: of the office.
        is_live: whether the lease is good now.
        failed: called once when a write has failed: the office is over.
    """

    def __init__(
        self, disk: SharedDisk, epoch: int, *, is_live: Callable[[], bool], failed: Callable[[CsvdError], None]
    ) -> None:
        self._disk = disk
        self._epoch = epoch
        self._is_live = is_live
        self._failed = failed
        self._tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        self._encoded: dict[str, dict[str, msgspec.Raw]] = {table: {} for table in TABLES}
        self._size_bytes = 0
        """What all will take when the changes that wait are made; an upper bound."""
        self._sizes: dict[tuple[str, str], int] = {}
        self._waiting: _Batch = []
        self._writing: Deferred[None] | None = None
        self._is_over = False
        self.sequence = 0
        """How often this office has written."""

    @property
    def size_bytes(self) -> int:
        """What the state takes, of MAXIMUM_RECORDS_BYTES."""
        return self._size_bytes

    def table(self, name: str) -> Mapping[str, Any]:
        """A table as it is durable."""
        return MappingProxyType(self._tables[name])

    def load(self, slot: RecordSlot) -> None:
        """Take the state that the office before has left.

        Raises:
            RecordsDamaged: it is none of this format.
        """
        if not slot.data:
            return
        try:
            content = msgspec.msgpack.decode(slot.data, type=_Content)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise RecordsDamaged("the records of the disk are damaged", where=self._disk.url, why=str(error)) from error
        if content.format != _FORMAT:
            why = f"their format is {content.format}, not {_FORMAT}"
            raise RecordsDamaged("the records of the disk are of another version", where=self._disk.url, why=why)
        for table in TABLES:
            for key, value in getattr(content, table).items():
                record = _Record(value, msgspec.Raw(msgspec.msgpack.encode(value)))
                self._count(table, key, record)
                self._tables[table][key] = value
                self._encoded[table][key] = record.encoded

    async def keep(self, changes: Changes) -> None:
        """Make changes durable, all or none; see `Office.keep`."""
        self._check()
        made = self._measured(changes)
        if len(self._waiting) >= MAXIMUM_WAITING:
            raise CommandRefused("the records were not changed", why=f"{MAXIMUM_WAITING} changes wait already")
        for (table, key), record in made.items():
            self._count(table, key, record)
        done: Deferred[None] = Deferred()
        self._waiting.append((made, done))
        if self._writing is None:
            self._write()
        await done

    async def end(self) -> None:
        """Begin no write any more; returns when none is under way."""
        self._is_over = True
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            done.errback(OfficeOver("the office has ended", where=self._disk.url))
        if self._writing is not None:
            ended: Deferred[None] = Deferred()
            self._writing.addBoth(lambda _: ended.callback(None))
            await ended

    def _check(self) -> None:
        if self._is_over or not self._is_live():
            raise OfficeOver("the office has ended, or its lease is out", where=self._disk.url)

    def _measured(self, changes: Changes) -> _Made:
        """The changes, encoded.

        Raises:
            CommandRefused: they can not be.
        """
        made: _Made = {}
        grown_bytes = 0
        for table, values in changes.items():
            for key, value in values.items():
                if not 1 <= len(key) <= MAXIMUM_KEY_CHARACTERS:
                    raise CommandRefused("the records were not changed", why=f"a key has {len(key)} characters")
                record = None
                if value is not None:
                    try:
                        copied, _ = copy_json_object({"": value}, maximum_bytes=MAXIMUM_RECORDS_BYTES)
                    except JsonError as error:
                        raise CommandRefused("the records were not changed", where=key, why=str(error)) from error
                    record = _Record(copied[""], msgspec.Raw(msgspec.msgpack.encode(value)))
                made[table, key] = record
                grown_bytes += _size_of(key, record) - self._sizes.get((table, key), 0)
        if grown_bytes > 0 and self._size_bytes + grown_bytes > MAXIMUM_RECORDS_BYTES - _OVERHEAD_BYTES:
            why = f"the disk has room for {MAXIMUM_RECORDS_BYTES} bytes of records"
            raise CommandRefused("the records were not changed", where=self._disk.url, why=why)
        return made

    def _count(self, table: str, key: str, record: _Record | None) -> None:
        size = _size_of(key, record)
        self._size_bytes += size - self._sizes.pop((table, key), 0)
        if size:
            self._sizes[table, key] = size

    def _write(self) -> None:
        """Write what waits."""
        batch, self._waiting = self._waiting, []
        encoded = {table: dict(values) for table, values in self._encoded.items()}
        for made, _ in batch:
            for (table, key), record in made.items():
                if record is None:
                    encoded[table].pop(key, None)
                else:
                    encoded[table][key] = record.encoded
        data = msgspec.msgpack.encode({"format": _FORMAT, **encoded})
        self.sequence += 1
        self._writing = self._disk.write_records(RecordSlot(self._epoch, self.sequence, data))
        self._writing.addCallbacks(
            lambda _: self._written(batch, encoded), lambda failure: self._not_written(batch, failure.value)
        )

    def _written(self, batch: _Batch, encoded: dict[str, dict[str, msgspec.Raw]]) -> None:
        self._writing = None
        if not self._is_live():
            self._unknown(batch, "the lease ran out meanwhile")
            return
        self._encoded = encoded
        for made, _ in batch:
            for (table, key), record in made.items():
                if record is None:
                    self._tables[table].pop(key, None)
                else:
                    self._tables[table][key] = record.value
        if self._waiting and not self._is_over:
            self._write()
        for _, done in batch:
            done.callback(None)

    def _not_written(self, batch: _Batch, error: BaseException) -> None:
        self._writing = None
        told = error if isinstance(error, CsvdError) else ClusterError("the disk failed", why=repr(error))
        self._is_over = True
        self._unknown(batch, str(told))
        self._failed(told)

    def _unknown(self, batch: _Batch, why: str) -> None:
        self._is_over = True
        for _, done in batch:
            done.errback(OutcomeUnknown("whether the records were kept is not known", where=self._disk.url, why=why))
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            done.errback(OfficeOver("the office has ended", where=self._disk.url))


def _size_of(key: str, record: _Record | None) -> int:
    """What a record takes in the slot, at most."""
    return 0 if record is None else len(bytes(record.encoded)) + 4 * len(key) + 5

"""What the commands of a target came to: how many, how much data, how long, and what went wrong.

Counting must cost next to nothing: a row of counters is a plain list of integers, found by LUN field and operation
code, and what was answered in one turn of the loop is counted together. Rows exist only for logical units and commands
that are there, so what a peer sends can not make them many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Final

from csvd.scsi.outcome import Status
from csvd.scsi.sense import SenseKey
from csvd.scsi.target_device import TargetDevice

Row = list[int]

BYTES_IN: Final = 0
BYTES_OUT: Final = 1
NANOSECONDS: Final = 2
FIRST_BUCKET: Final = 3
BUCKET_SHIFT: Final = 12
"""A command of ``ns`` nanoseconds is counted in bucket ``(ns >> BUCKET_SHIFT).bit_length()``: the first takes those
below 4,096 ns, each further one twice as much as the one before it."""
_RAW_BUCKETS: Final = 64 - BUCKET_SHIFT + 1
BUCKETS: Final = 24
"""Buckets that are shown; the last takes all that is longer, from 17 s."""

OTHER: Final = 256
"""In the place of an operation code: commands that the logical unit has not, and LUNs that the target has not."""
NO_UNIT: Final = -1

# Operation codes whose service action selects the command are counted as one.
_GROUPS: Final = {
    0x5E: "PERSISTENT RESERVE IN",
    0x5F: "PERSISTENT RESERVE OUT",
    0x7F: "VARIABLE LENGTH CDB",
    0x83: "THIRD-PARTY COPY OUT",
    0x84: "THIRD-PARTY COPY IN",
    0x9D: "SERVICE ACTION BIDIRECTIONAL",
    0x9E: "SERVICE ACTION IN(16)",
    0x9F: "SERVICE ACTION OUT(16)",
    0xA3: "MAINTENANCE IN",
    0xA4: "MAINTENANCE OUT",
    OTHER: "other",
}


def new_row() -> Row:
    """A row of zeros."""
    return [0] * (FIRST_BUCKET + _RAW_BUCKETS)


def upper_bound_s(bucket: int) -> float:
    """Where a bucket ends, in seconds; the last one that is shown has no end."""
    return (1 << (BUCKET_SHIFT + bucket)) / 1e9


class ConnectionCounter:
    """What the commands of one connection came to, and how those that are answered at once are counted.

    Answers of one turn of the loop are sent together, so all of them took as long as the turn. Commands of one kind
    that follow one another in a turn are a run: for each there are two additions; the rows are changed when it ends.

    Attributes:
        turn_ns: when the present turn began.
        row: of all commands.
        errors: by `error_name`.
        run_row, run_count, run_bytes_in, run_bytes_out: the run that goes on.
    """

    __slots__ = ("errors", "row", "run_bytes_in", "run_bytes_out", "run_count", "run_row", "turn_ns")

    def __init__(self) -> None:
        self.turn_ns = perf_counter_ns()
        self.row: Row = new_row()
        self.errors: Counter[str] = Counter()
        self.run_row: Row = new_row()
        self.run_count = 0
        self.run_bytes_in = 0
        self.run_bytes_out = 0

    def count_run(self, row: Row, count: int, bytes_in: int, bytes_out: int) -> None:
        """Count commands of one kind that are answered at once."""
        if row is not self.run_row:
            self.end_run()
            self.run_row = row
        self.run_count += count
        self.run_bytes_in += bytes_in
        self.run_bytes_out += bytes_out

    def end_run(self) -> None:
        """Count what was answered at once."""
        count = self.run_count
        if not count:
            return
        elapsed_ns = perf_counter_ns() - self.turn_ns
        bucket = FIRST_BUCKET + (elapsed_ns >> BUCKET_SHIFT).bit_length()
        row, mine, bytes_in, bytes_out = self.run_row, self.row, self.run_bytes_in, self.run_bytes_out
        row[BYTES_IN] += bytes_in
        mine[BYTES_IN] += bytes_in
        row[BYTES_OUT] += bytes_out
        mine[BYTES_OUT] += bytes_out
        row[NANOSECONDS] += elapsed_ns * count
        mine[NANOSECONDS] += elapsed_ns * count
        row[bucket] += count
        mine[bucket] += count
        self.run_count = self.run_bytes_in = self.run_bytes_out = 0

    def count(self, row: Row, began_ns: int, bytes_in: int, bytes_out: int) -> None:
        """Count one command that is answered now."""
        self.count_many(row, 1, began_ns, bytes_in, bytes_out)

    def count_many(self, row: Row, count: int, began_ns: int, bytes_in: int, bytes_out: int) -> None:
        """Count commands of one kind that began and are answered together."""
        elapsed_ns = perf_counter_ns() - began_ns
        bucket = FIRST_BUCKET + (elapsed_ns >> BUCKET_SHIFT).bit_length()
        mine = self.row
        if bytes_in:
            row[BYTES_IN] += bytes_in
            mine[BYTES_IN] += bytes_in
        if bytes_out:
            row[BYTES_OUT] += bytes_out
            mine[BYTES_OUT] += bytes_out
        row[NANOSECONDS] += elapsed_ns * count
        mine[NANOSECONDS] += elapsed_ns * count
        row[bucket] += count
        mine[bucket] += count


@dataclass(slots=True)
class Totals:
    """Rows added up.

    Args:
        count: commands.
        errors: commands that did not end GOOD, by sense key, or by status where there is none.
        buckets: of the latency, BUCKETS of them.
    """

    count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    nanoseconds: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, row: Row) -> None:
        """Add a row."""
        self.bytes_in += row[BYTES_IN]
        self.bytes_out += row[BYTES_OUT]
        self.nanoseconds += row[NANOSECONDS]
        for bucket, count in enumerate(row[FIRST_BUCKET:]):
            if count:
                self.buckets[min(bucket, BUCKETS - 1)] += count
                self.count += count

    def to_json(self) -> dict[str, Any]:
        """As the control API shows it."""
        return {
            "count": self.count,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "seconds": self.nanoseconds / 1e9,
            "errors": dict(self.errors),
            "buckets": list(self.buckets),
        }


def totals_of(rows: Iterable[Row]) -> Totals:
    """Add rows up."""
    totals = Totals()
    for row in rows:
        totals.add(row)
    return totals


def bounds_s() -> list[float]:
    """Where the buckets end, in seconds; the last has no end."""
    return [upper_bound_s(bucket) for bucket in range(BUCKETS - 1)]


class TargetStatistics:
    """The counters of one target, by logical unit and command.

    Attributes:
        tables: by LUN field, rows by operation code; for the hot path, which asks `row` where there is none.
    """

    def __init__(self, device: TargetDevice) -> None:
        self._device = device
        self.tables: dict[int, list[Row | None]] = {}
        self._by_number: dict[int, list[Row | None]] = {}
        self._errors: dict[int, Counter[tuple[int, str]]] = {}

    def row(self, lun: int, operation_code: int) -> Row:
        """The row of a command; made where it may be."""
        known = self.tables.get(lun)
        if known is not None and (found := known[operation_code]) is not None:
            return found
        number = self._number(lun)
        table = self._by_number.get(number)
        if table is None:
            table = self._by_number[number] = [None] * (OTHER + 1)
        if number != NO_UNIT:
            self.tables[lun] = table
        chosen = self._key(number, operation_code)
        row = table[chosen]
        if row is None:
            row = table[chosen] = new_row()
        return row

    def _number(self, lun: int) -> int:
        unit = self._device.unit_of(lun)
        return NO_UNIT if unit is None or unit.device is None else unit.number

    def _key(self, number: int, operation_code: int) -> int:
        server = self._device.servers.get(number)
        if server is None:
            return OTHER
        commands = server.commands
        known = operation_code in commands.by_operation_code or commands.has_service_actions(operation_code)
        return operation_code if known else OTHER

    def failed(self, lun: int, operation_code: int, status: int, sense: bytes) -> str:
        """Count a command that did not end GOOD; give what it is counted as."""
        number = self._number(lun)
        name = error_name(status, sense)
        errors = self._errors.setdefault(number, Counter())
        errors[self._key(number, operation_code), name] += 1
        return name

    def forget(self, number: int) -> None:
        """A logical unit is gone: another one of its number begins with zeros."""
        gone = self._by_number.pop(number, None)
        self._errors.pop(number, None)
        for lun in [lun for lun, table in self.tables.items() if table is gone]:
            del self.tables[lun]

    def commands(self) -> Iterator[tuple[int, str, Totals]]:
        """Number of the logical unit (NO_UNIT for none), name of the command and what it came to."""
        for number, table in sorted(self._by_number.items()):
            errors = self._errors.get(number, Counter())
            for code, row in enumerate(table):
                if row is None:
                    continue
                totals = totals_of([row])
                totals.errors.update({name: count for (of, name), count in errors.items() if of == code})
                yield number, self._name(number, code), totals

    def units(self) -> Iterator[tuple[int, Totals]]:
        """Number of the logical unit (NO_UNIT for none) and what all its commands came to."""
        for number, table in sorted(self._by_number.items()):
            totals = totals_of(row for row in table if row is not None)
            for (_, name), count in self._errors.get(number, Counter()).items():
                totals.errors[name] += count
            yield number, totals

    def _name(self, number: int, code: int) -> str:
        if code in _GROUPS:
            return _GROUPS[code]
        command = self._device.servers[number].commands.by_operation_code.get(code)
        return command.name if command is not None else f"{code:02X}h"


def number_face(number: int) -> int | None:
    """The number of a logical unit; None for LUNs that the target has not."""
    return None if number == NO_UNIT else number


def error_name(status: int, sense: bytes) -> str:
    """What an error is counted as: the sense key in lower case, or the status where there is no sense data."""
    if status == Status.CHECK_CONDITION and len(sense) > 2:
        # The response codes 70h and 71h are the fixed format, 72h and 73h the descriptor format (SPC-4 4.5).
        key = sense[2] & 0x0F if sense[0] & 0x7F < 0x72 else sense[1] & 0x0F
        try:
            return SenseKey(key).name.lower()
        except ValueError:
            return f"sense_key_{key:x}"
    try:
        return Status(status).name.lower()
    except ValueError:
        return f"status_{status:02x}"

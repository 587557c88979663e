"""One descriptor a command: dispatch, REPORT SUPPORTED OPERATION CODES and the reference page in docs/ come from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from csvd.scsi.cdb import SERVICE_ACTION, CdbLayout
from csvd.scsi.logical_unit import LogicalUnit, Peripheral
from csvd.scsi.outcome import Outcome
from csvd.scsi.sense import Asc, FieldPointer, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

Handler: TypeAlias = "Callable[[ItlNexus, bytes, memoryview], Outcome]"

DISKS: Final = frozenset({Peripheral.DISK})
LOGICAL_UNITS: Final = frozenset({Peripheral.DISK, Peripheral.WELL_KNOWN})
ANY_LUN: Final = frozenset(Peripheral)


class DataDirection(Enum):
    """Which way a command's data goes, seen from the initiator."""

    NONE = "none"
    DATA_IN = "data-in"
    DATA_OUT = "data-out"


class Reservation(Enum):
    """What another I_T nexus' reservation does to a command (SPC-4 tables 65 and 66, SBC-3 4.17, SPC-2 5.5)."""

    ALLOWED = "allowed"
    CONFLICTS_WITH_LEGACY = "allowed with a persistent reservation; conflicts with one that RESERVE(6) made"
    CONFLICTS_WITH_EXCLUSIVE_ACCESS = "conflicts with exclusive access"
    CONFLICTS = "conflicts"


def every_unit(_unit: LogicalUnit) -> bool:
    """A command that all logical units of its peripherals offer."""
    return True


def no_data_out(_server: DeviceServer, _cdb: bytes) -> int:
    """Data-Out length of a command that takes none."""
    return 0


@dataclass(frozen=True, slots=True)
class Command:
    """The row of one command.

    Args:
        name: its name in the standard.
        operation_code, service_action: what selects it; no service action for most.
        layout: its CDB.
        direction: which way its data goes.
        reservation: what a reservation of another nexus does to it.
        handler: carries it out; raises `CheckCondition`.
        data_out_length: bytes of Data-Out that a CDB of it takes; zero for a CDB that will be refused. Negative where
            the CDB does not say: what the initiator sends, but no more than that many bytes.
        peripherals: the kinds of logical unit that offer it.
        offered: which logical units of these kinds offer it.
        despite_attention: it runs, and leaves a unit attention condition pending (SAM-5 5.14.4).
        recommended_timeout_s: of the command timeouts descriptor.
        reservation_by_cdb: in place of `reservation`, for a command that is allowed or not by what its CDB says.
    """

    name: str
    operation_code: int
    layout: CdbLayout
    direction: DataDirection
    reservation: Reservation
    handler: Handler
    service_action: int | None = None
    data_out_length: Callable[[DeviceServer, bytes], int] = no_data_out
    peripherals: frozenset[Peripheral] = DISKS
    offered: Callable[[LogicalUnit], bool] = every_unit
    despite_attention: bool = False
    recommended_timeout_s: int = 30
    reservation_by_cdb: Callable[[bytes], Reservation] | None = None
    control_offset: int = field(init=False)

    def __post_init__(self) -> None:
        # A copy of the layout's, one attribute nearer on the hot path.
        object.__setattr__(self, "control_offset", self.layout.control_offset)

    def reservation_of(self, cdb: bytes) -> Reservation:
        """What a reservation of another nexus does to this command with this CDB."""
        return self.reservation if self.reservation_by_cdb is None else self.reservation_by_cdb(cdb)

    def usage_data(self) -> bytes:
        """CDB USAGE DATA: a map of the evaluated bits, with the code and service action themselves (SPC-4 6.35.3)."""
        usage = bytearray(self.layout.usage)
        usage[0] = self.operation_code
        if self.service_action is not None:
            usage[1] = usage[1] & ~SERVICE_ACTION | self.service_action
        return bytes(usage)


class CommandTable:
    """The commands of one kind of logical unit.

    Attributes:
        by_operation_code: commands without service actions, for the hot path.
    """

    __slots__ = ("_by_service_action", "_unsupported", "by_operation_code")

    def __init__(self, commands: Iterable[Command], *, unsupported: Asc = Asc.INVALID_COMMAND_OPERATION_CODE) -> None:
        self.by_operation_code: dict[int, Command] = {}
        self._by_service_action: dict[int, dict[int, Command]] = {}
        self._unsupported = unsupported
        for command in commands:
            code, action = command.operation_code, command.service_action
            rows = self.by_operation_code if action is None else self._by_service_action.setdefault(code, {})
            key = code if action is None else action
            twice = key in rows or (code in self._by_service_action and code in self.by_operation_code)
            assert not twice, f"{command.name} has the code of another row"
            rows[key] = command

    def __iter__(self) -> Iterator[Command]:
        """Every row, by operation code and service action."""
        rows = [*self.by_operation_code.values()]
        for actions in self._by_service_action.values():
            rows.extend(actions.values())
        return iter(sorted(rows, key=lambda row: (row.operation_code, row.service_action or 0)))

    def offered_by(self, unit: LogicalUnit) -> CommandTable:
        """The table with what this logical unit offers."""
        rows = [row for row in self if row.offered(unit)]
        return self if len(rows) == len(list(self)) else CommandTable(rows, unsupported=self._unsupported)

    def find(self, cdb: bytes) -> Command | None:
        """The row of a CDB, None where there is none."""
        command = self.by_operation_code.get(cdb[0])
        if command is None:
            command = self.find_service_action(cdb[0], cdb[1] & SERVICE_ACTION)
        return command

    def find_service_action(self, operation_code: int, service_action: int) -> Command | None:
        """The row of a command with service actions."""
        return self._by_service_action.get(operation_code, {}).get(service_action)

    def has_operation_code(self, operation_code: int) -> bool:
        """Whether there is any row of this operation code."""
        return operation_code in self.by_operation_code or operation_code in self._by_service_action

    def has_service_actions(self, operation_code: int) -> bool:
        """Whether the service action field of this operation code selects the command."""
        return operation_code in self._by_service_action

    def require(self, cdb: bytes) -> Command:
        """The row of a CDB.

        Raises:
            CheckCondition: ILLEGAL REQUEST; of an operation code that is there and a service action that is not,
                INVALID FIELD IN CDB (SPC-4 4.2.5.2).
        """
        command = self.find(cdb)
        if command is not None:
            return command
        if self.has_service_actions(cdb[0]):
            raise invalid_field_in_cdb(FieldPointer(1, bit=4))
        raise illegal_request(self._unsupported, FieldPointer(0) if self._unsupported is not _NO_UNIT else None)


_NO_UNIT: Final = Asc.LOGICAL_UNIT_NOT_SUPPORTED


def tables(commands: Collection[Command]) -> dict[Peripheral, CommandTable]:
    """The command table of each kind of logical unit."""
    return {
        peripheral: CommandTable(
            (command for command in commands if peripheral in command.peripherals),
            unsupported=_NO_UNIT if peripheral is Peripheral.ABSENT else Asc.INVALID_COMMAND_OPERATION_CODE,
        )
        for peripheral in Peripheral
    }

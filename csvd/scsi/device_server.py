"""The device server of one logical unit, and its view of each I_T nexus: the I_T_L nexus with its unit attentions."""

from __future__ import annotations

from collections.abc import Collection

from csvd.scsi.command import CommandTable
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, encode_sense
from csvd.scsi.task_management import TaskManagementFunction

_POWER_ON = Asc.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
_RESETS = frozenset({_POWER_ON, Asc.BUS_DEVICE_RESET_FUNCTION_OCCURRED})


class DeviceServer:
    """State of a logical unit that all I_T nexuses share.

    Attributes:
        unit: what it is.
        commands: what it offers.
        numbers: LUNs of the target, ascending, for REPORT LUNS.
        functions: task management functions of the target.
        write_protected: writes are refused.
        descriptor_sense: D_SENSE of the control mode page.
        nexuses: its I_T_L nexuses by I_T nexus.
    """

    __slots__ = ("commands", "descriptor_sense", "functions", "nexuses", "numbers", "unit", "write_protected")

    def __init__(
        self,
        unit: LogicalUnit,
        commands: CommandTable,
        numbers: list[int],
        functions: Collection[TaskManagementFunction],
    ) -> None:
        self.unit = unit
        self.commands = commands
        self.numbers = numbers
        self.functions = functions
        self.write_protected = unit.read_only
        self.descriptor_sense = False
        self.nexuses: dict[str, ItlNexus] = {}

    def refuse(self, condition: CheckCondition) -> Reply:
        """CHECK CONDITION with its sense data."""
        sense = encode_sense(condition, descriptor=self.descriptor_sense)
        return Reply(Status.CHECK_CONDITION, b"", sense)

    def establish(self, asc: Asc, *, except_nexus: str | None = None) -> None:
        """Establish a unit attention condition for every I_T nexus but one."""
        for name, nexus in self.nexuses.items():
            if name != except_nexus:
                nexus.establish(asc)


class ItlNexus:
    """One I_T nexus with one logical unit.

    A command may go straight to its handler unless `interrupted`: that one flag says that something about this
    nexus must be looked at first, such as a pending unit attention condition.
    """

    __slots__ = ("_attentions", "commands", "interrupted", "server", "unit")

    def __init__(self, server: DeviceServer, attention: Asc | None = None) -> None:
        self.server = server
        self.unit = server.unit
        self.commands = server.commands.by_operation_code
        self._attentions: list[Asc] = []
        self.interrupted = False
        if attention is not None:
            self.establish(attention)

    def establish(self, asc: Asc) -> None:
        """Queue a unit attention condition. A reset tells all, so it replaces what was queued (SAM-5 5.14.2).

        The queue holds each condition once, so a nexus that never asks costs no more than their number.
        """
        if asc in _RESETS:
            self._attentions = [_POWER_ON if _POWER_ON in self._attentions else asc]
        elif asc not in self._attentions:
            self._attentions.append(asc)
        self.interrupted = True

    def take_attention(self) -> CheckCondition | None:
        """Report the oldest unit attention condition and clear it."""
        if not self._attentions:
            return None
        asc = self._attentions.pop(0)
        self.interrupted = bool(self._attentions)
        return CheckCondition(SenseKey.UNIT_ATTENTION, asc)

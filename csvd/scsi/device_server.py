"""The device server of one logical unit, and its view of each I_T nexus: the I_T_L nexus with its unit attentions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from csvd.scsi.background import MediumOperation
from csvd.scsi.cdb import NACA
from csvd.scsi.command import Command, CommandTable
from csvd.scsi.device_buffers import DeviceBuffers
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.medium_state import MediumState
from csvd.scsi.mode_pages import ModePage
from csvd.scsi.mode_parameters import ModeParameters
from csvd.scsi.nexus import Nexus, NexusIdentity
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.reservation_guard import ReservationGuard
from csvd.scsi.reservation_store import ReservationStore
from csvd.scsi.reservations import Registrant
from csvd.scsi.sense import Asc, CheckCondition, FieldPointer, SenseKey, encode_sense, invalid_field_in_cdb
from csvd.scsi.task_management import TaskManagementFunction
from csvd.scsi.task_set import TaskSet
from csvd.scsi.third_party_copy import CopyManager
from csvd.scsi.threshold_watch import ThresholdWatch
from csvd.scsi.turn import Turn

_POWER_ON = Asc.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
_RESETS = frozenset({_POWER_ON, Asc.BUS_DEVICE_RESET_FUNCTION_OCCURRED})
_REMEMBERED = 1024
"""Ports that may come back and be told no more than that they were away."""


class Guard(Protocol):
    """What may stand between a command and its handler: reservations, a stopped medium, an inactive port."""

    def concerns(self, itl: ItlNexus) -> bool:
        """Whether commands of this nexus must be checked at present. Call `DeviceServer.refresh` when that changes."""

    def check(self, itl: ItlNexus, command: Command, cdb: bytes) -> Reply | None:
        """Give the answer to a command that may not run; None for one that may.

        Raises:
            CheckCondition: it may not run.
        """


class DeviceServer:
    """State of a logical unit that all I_T nexuses share.

    Attributes:
        unit: what it is.
        commands: what it offers.
        functions: task management functions of the target.
        mode: its mode parameters.
        write_protected: writes are refused: it is read-only, or SWP of the Control mode page says so.
        write_through: WCE of the Caching mode page is zero: writes are durable before GOOD.
        descriptor_sense: D_SENSE of the Control mode page.
        nexuses: its I_T_L nexuses by the name of the I_T nexus.
        task_set: which tasks may begin.
        threshold_watch: tells when a thin logical unit uses more than its soft threshold.
        reservations: the reservations of its logical unit.
        guards: asked in their order before a command of an interrupted nexus runs.
        medium_state: whether the medium is there and may be removed.
        copies: its copy manager.
        medium_operation: the format or sanitize operation that goes on, or has failed.
        buffers: what WRITE BUFFER filled.
        keeping: whose turn it is to change what is kept of mode parameters and identifying information: what one keeps
            must have in it what the one before has kept.
    """

    __slots__ = (
        "_away",
        "_reservation_guard",
        "buffers",
        "commands",
        "copies",
        "descriptor_sense",
        "functions",
        "guards",
        "keeping",
        "medium_operation",
        "medium_state",
        "mode",
        "nexuses",
        "reservations",
        "task_set",
        "threshold_watch",
        "unit",
        "write_protected",
        "write_through",
    )

    def __init__(
        self,
        unit: LogicalUnit,
        commands: CommandTable,
        functions: Collection[TaskManagementFunction],
        reservations: ReservationStore,
        nexuses: Mapping[str, Nexus],
    ) -> None:
        self.unit = unit
        self.commands = commands
        self.functions = functions
        self.threshold_watch = ThresholdWatch(self)
        self.mode = ModeParameters(unit)
        self.write_protected = unit.read_only
        self.write_through = False
        self.descriptor_sense = False
        self._mode_changed()
        self.nexuses: dict[str, ItlNexus] = {}
        self._away: dict[NexusIdentity, None] = {}
        self.task_set = TaskSet()
        self.buffers = DeviceBuffers()
        self.keeping = Turn()
        self.medium_state = MediumState(self)
        self.copies = CopyManager()
        self.medium_operation = MediumOperation(self)
        self.reservations: ReservationStore = reservations
        self._reservation_guard = ReservationGuard(self, reservations, nexuses)
        self.guards: list[Guard] = [self._reservation_guard, self.medium_operation, self.medium_state]
        if unit.cluster is not None:
            unit.cluster.add_server(self)

    def end(self) -> None:
        """The logical unit is served no more: nothing reaches this device server from outside."""
        self._reservation_guard.end()
        if self.unit.cluster is not None:
            self.unit.cluster.end_server(self)

    def change_mode(self, values: Mapping[ModePage, bytes], *, saved: bool, by_nexus: str) -> bool:
        """Change mode parameters; the other nexuses are told when any is another one (SPC-4 6.11).

        Returns:
            Whether what was written before must be made durable now: the write cache went off, or writes are refused.
        """
        before = {page: self.mode.current(page) for page in values}
        self.mode.change(values, saved=saved)
        must_flush = self._mode_changed()
        if before != values:
            self.establish(Asc.MODE_PARAMETERS_CHANGED, except_nexus=by_nexus)
        return must_flush

    def take_mode(self, current: Mapping[str, str], saved: Mapping[str, str]) -> tuple[bool, bool]:
        """Take over mode parameters that the nodes of a clustered logical unit agree on.

        Returns:
            Whether current values are others now; and what `change_mode` returns.
        """
        before = [self.mode.current(page) for page in self.mode.pages]
        self.mode.take(current, saved)
        must_flush = self._mode_changed()
        return before != [self.mode.current(page) for page in self.mode.pages], must_flush

    def _mode_changed(self) -> bool:
        """Copies of what is asked at every command, one attribute near. Returns what `change_mode` does."""
        was_cached, was_writable = not self.write_through, not self.write_protected
        self.write_protected = self.unit.read_only or self.mode.software_write_protect
        self.write_through = not self.mode.write_cache
        self.descriptor_sense = self.mode.descriptor_sense
        return (was_cached and self.write_through) or (was_writable and self.write_protected)

    def reset(self) -> None:
        """A reset of the logical unit: what commands had set goes back (SAM-5 6.3.2, SPC-4 7.5.1, SPC-2 5.5)."""
        self.reservations.end_legacy()
        self.mode.reset()
        self._mode_changed()
        self.medium_state.reset()
        self.buffers.reset()
        self.copies.reset()

    def nexus_lost(self, name: str) -> None:
        """Drop what is held for an I_T nexus."""
        itl = self.nexuses.pop(name, None)
        if itl is not None:
            self.reservations.end_legacy(itl.nexus.registrant)
            if not itl.attentions:
                self._away[itl.nexus.identity] = None
                if len(self._away) > _REMEMBERED:
                    del self._away[next(iter(self._away))]
        self.medium_state.allow_removal(name)
        self.buffers.drop_echo(name)
        self.copies.nexus_lost(name)

    def refuse(self, condition: CheckCondition) -> Reply:
        """CHECK CONDITION with its sense data."""
        sense = encode_sense(condition, descriptor=self.descriptor_sense)
        return Reply(Status.CHECK_CONDITION, b"", sense)

    def opened(self, nexus: Nexus) -> ItlNexus:
        """The I_T_L nexus of an I_T nexus that is new here, with what its first command reports.

        Ports that were here since power on, and have missed nothing, are told of the loss of their nexus alone (SAM-5
        6.3.4): an initiator that logs in again learns that what it wrote into the cache is still there.
        """
        back = nexus.identity in self._away
        self._away.pop(nexus.identity, None)
        itl = ItlNexus(self, nexus, Asc.I_T_NEXUS_LOSS_OCCURRED if back else _POWER_ON)
        self.nexuses[nexus.name] = itl
        return itl

    def establish(self, asc: Asc, *, except_nexus: str | None = None) -> None:
        """Establish a unit attention condition for every I_T nexus but one; those that are away are told all."""
        self._away.clear()
        for name, itl in self.nexuses.items():
            if name != except_nexus:
                itl.establish(asc)

    def establish_but(self, asc: Asc, who: Registrant | None) -> None:
        """The same for every I_T nexus but those of these ports."""
        self._away.clear()
        for itl in self.nexuses.values():
            if itl.nexus.registrant != who:
                itl.establish(asc)

    def refuses(self, nexus: str) -> bool:
        """Whether a reservation of another nexus forbids this one to write, by now."""
        itl = self.nexuses.get(nexus)
        return itl is not None and self._reservation_guard.concerns(itl)

    def refresh(self) -> None:
        """A guard has begun, or ended, to concern some nexus."""
        for itl in self.nexuses.values():
            itl.refresh()

    def check(self, itl: ItlNexus, command: Command, cdb: bytes) -> Reply | None:
        """Ask the guards; see `Guard.check`."""
        for guard in self.guards:
            reply = guard.check(itl, command, cdb)
            if reply is not None:
                return reply
        return None


class ItlNexus:
    """One I_T nexus with one logical unit.

    A command may go straight to its handler unless `interrupted`: that one flag says that something about this
    nexus must be looked at first, such as a pending unit attention condition or a guard that concerns it.
    """

    __slots__ = ("_attentions", "commands", "interrupted", "nexus", "server", "unit")

    def __init__(self, server: DeviceServer, nexus: Nexus, attention: Asc | None = None) -> None:
        self.server: DeviceServer = server
        self.nexus: Nexus = nexus
        self.unit = server.unit
        self.commands = server.commands.by_operation_code
        self._attentions: list[Asc] = []
        self.interrupted = False
        if attention is not None:
            self.establish(attention)
        else:
            self.refresh()

    def establish(self, asc: Asc) -> None:
        """Queue a unit attention condition. A reset tells all, so it replaces what was queued (SAM-5 5.14.2).

        The queue holds each condition once, so a nexus that never asks costs no more than their number.
        """
        if asc in _RESETS:
            self._attentions = [_POWER_ON if _POWER_ON in self._attentions else asc]
        elif asc not in self._attentions:
            self._attentions.append(asc)
        self.interrupted = True

    @property
    def attentions(self) -> Sequence[Asc]:
        """The pending unit attention conditions, the oldest first."""
        return self._attentions

    def take_attention(self) -> CheckCondition | None:
        """Report the oldest unit attention condition and clear it."""
        if not self._attentions:
            return None
        asc = self._attentions.pop(0)
        self.refresh()
        return CheckCondition(SenseKey.UNIT_ATTENTION, asc)

    def drop_attention(self, asc: Asc) -> None:
        """Clear a unit attention condition that was reported otherwise."""
        if asc in self._attentions:
            self._attentions.remove(asc)
            self.refresh()

    def refresh(self) -> None:
        """Settle anew whether commands of this nexus go straight to their handlers."""
        self.interrupted = bool(self._attentions) or any(guard.concerns(self) for guard in self.server.guards)

    def admit(self, cdb: bytes, data_out: memoryview) -> Outcome:
        """Carry out a command in the order of SAM-5 5.14.4: unit attention first, then what stands between, then the
        command itself.

        Raises:
            CheckCondition: it ends in that.
        """
        server = self.server
        command = server.commands.find(cdb)
        if command is None or not command.despite_attention:
            attention = self.take_attention()
            if attention is not None:
                raise attention
        command = server.commands.require(cdb)
        if cdb[command.control_offset] & NACA:
            raise invalid_field_in_cdb(FieldPointer(command.control_offset, bit=NACA.bit_length() - 1))
        if self.interrupted or command.service_action is not None:
            reply = server.check(self, command, cdb)
            if reply is not None:
                return reply
        return command.handler(self, cdb, data_out)

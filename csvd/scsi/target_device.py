"""The SCSI target device of one node: task router and device servers (SAM-5 4.6). PURE: commands in, outcomes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TypeAlias

from csvd.all_done import for_each
from csvd.errors import CsvdError
from csvd.scsi.cdb import CDB_BYTES, NACA
from csvd.scsi.cluster_unit import ClusterUnit
from csvd.scsi.commands import TABLES
from csvd.scsi.commands.sanitize import resumption
from csvd.scsi.device_server import DeviceServer, ItlNexus
from csvd.scsi.faults import fault_condition
from csvd.scsi.logical_unit import Identity, LogicalUnit, Peripheral
from csvd.scsi.lun import REPORT_LUNS_WELL_KNOWN, encode_lun, lun_spellings
from csvd.scsi.nexus import Nexus, NexusIdentity, target_port_name
from csvd.scsi.outcome import GOOD, OPERATION_NAMES, Outcome, Reply, Transfer
from csvd.scsi.procedure import Background, DiskFault, Procedure, Steps
from csvd.scsi.reservation_store import LocalReservations, ReservationStore
from csvd.scsi.reservations import Registrant
from csvd.scsi.rod_tokens import RodTokens
from csvd.scsi.sense import (
    AdditionalSense,
    Asc,
    CheckCondition,
    SenseKey,
    illegal_request,
)
from csvd.scsi.target_ports import AccessState, StateChange, TargetPorts
from csvd.scsi.task_management import OFFERED, OFFERED_AT_LEVEL_2, TaskManagementFunction
from csvd.scsi.task_set import TaskSet
from csvd.scsi.write_through import written_through


class UnknownNexusError(CsvdError):
    """A command of an I_T nexus that was not opened, or is lost: a fault of the caller, never of a peer."""


LunMask: TypeAlias = Callable[[NexusIdentity, int], bool]
"""Whether the initiator of a nexus may see a LUN."""


def every_lun(_identity: NexusIdentity, _number: int) -> bool:
    """No LUN masking."""
    return True


class TargetDevice:
    """Runs the commands of all I_T nexuses on the logical units of one target.

    Args:
        logical_units: by LUN.
        name: the iSCSI name of the target.
        mask: which initiator may see which LUN; an invisible one does not exist for it.
        reservations: gives the reservations of a logical unit; the same for all targets that export it.
        functions: the task management functions that the target carries out.
        ports: its target ports; those of open nexuses are known without.
    """

    def __init__(
        self,
        logical_units: Mapping[int, LogicalUnit],
        *,
        name: str = "",
        mask: LunMask = every_lun,
        reservations: Callable[[LogicalUnit], ReservationStore] = LocalReservations,
        functions: Collection[TaskManagementFunction] = OFFERED,
        ports: TargetPorts | None = None,
    ) -> None:
        self.name = name
        self.ports = ports or TargetPorts()
        self.nexuses: dict[str, Nexus] = {}
        self.tokens = RodTokens()
        self.servers: dict[int, DeviceServer] = {}
        self._mask = mask
        self._functions = functions
        self._reservations = reservations
        self._itls: dict[str, dict[int, ItlNexus]] = {}
        self._routes: dict[int, DeviceServer] = {}
        for number in sorted(logical_units):
            assert logical_units[number].number == number, f"LUN {number} is given another one's logical unit"
            self._serve(logical_units[number])
        identity = next((server.unit.identity for server in self.servers.values()), Identity())
        self._absent = self._unit_less_server(Peripheral.ABSENT, identity)
        self._routes[REPORT_LUNS_WELL_KNOWN] = self._unit_less_server(Peripheral.WELL_KNOWN, identity)

    def _serve(self, unit: LogicalUnit) -> None:
        server = self._server(unit)
        server.guards.insert(0, self.ports)
        self.servers[unit.number] = server
        for spelling in lun_spellings(unit.number):
            self._routes[spelling] = server

    def _server(self, unit: LogicalUnit) -> DeviceServer:
        # What is clustered keeps something, and offers what that takes, once its reservations are there.
        reservations = self._reservations(unit)
        commands = TABLES[unit.peripheral].offered_by(unit)
        return DeviceServer(unit, commands, self._functions, reservations, self.nexuses)

    def _unit_less_server(self, peripheral: Peripheral, identity: Identity) -> DeviceServer:
        """A server for a LUN without a disk: a well known logical unit, or one that does not exist."""
        unit = LogicalUnit(
            number=0, device=None, block_bytes=512, block_count=1, identity=identity, peripheral=peripheral
        )
        return DeviceServer(unit, TABLES[peripheral], self._functions, LocalReservations(unit), self.nexuses)

    def target_ports(self) -> list[Registrant]:
        """The target ports, in ascending order, as the I_T nexuses that nobody's initiator port has with them."""
        tags = {nexus.identity.portal_group_tag for nexus in self.nexuses.values()}
        tags.update(self.ports.groups)
        return [Registrant("", target_port_name(self.name, tag), tag) for tag in sorted(tags)]

    # I_T nexuses

    def nexus_opened(
        self,
        nexus: str,
        initiator_name: str = "",
        isid: bytes = bytes(6),
        portal_group_tag: int = 1,
        protocol_level: int = 1,
    ) -> None:
        """An I_T nexus begins: its first command to each logical unit reports the unit attention condition of power on,
        or of the loss of the nexus where its ports were here before.

        A nexus that is open already begins anew (session reinstatement).

        Args:
            protocol_level: iSCSIProtocolLevel; from 2 on the task management functions of RFC 7144 can be asked for.
        """
        self.nexus_lost(nexus)
        identity = NexusIdentity(initiator_name, isid, portal_group_tag)
        opened = Nexus(nexus, identity, self)
        opened.numbers = self._visible_numbers(identity)
        opened.functions = (*self._functions, *(OFFERED_AT_LEVEL_2 if protocol_level >= 2 else ()))
        self.nexuses[nexus] = opened
        self._itls[nexus] = {}

    def nexus_lost(self, nexus: str) -> None:
        """An I_T nexus ends; what the device servers held for it is dropped. An unknown one is no error."""
        self.nexuses.pop(nexus, None)
        if self._itls.pop(nexus, None) is not None:
            for server in self._routes.values():
                server.nexus_lost(nexus)

    def _visible_numbers(self, identity: NexusIdentity) -> list[int]:
        return [number for number in sorted(self.servers) if self._mask(identity, number)]

    # Changes at run time

    def add_unit(self, unit: LogicalUnit) -> None:
        """Serve another logical unit; its LUN must be free."""
        assert unit.number not in self.servers
        self._serve(unit)
        self._luns_changed()

    def remove_unit(self, number: int) -> LogicalUnit:
        """Serve a logical unit no more; its tasks are the caller's to end first."""
        server = self.servers.pop(number)
        self.tokens.revoke(server.unit)
        server.end()
        for spelling in lun_spellings(number):
            del self._routes[spelling]
            for itls in self._itls.values():
                itls.pop(spelling, None)
        self._luns_changed()
        return server.unit

    def resumptions(self) -> list[Background]:
        """What logical units must go on with after a restart, each told once; for whoever serves them to begin."""
        return [found for server in self.servers.values() if (found := resumption(server)) is not None]

    def set_mask(self, mask: LunMask) -> None:
        """Change which initiator may see which LUN."""
        self._mask = mask
        self._luns_changed()

    def resized(self, number: int, block_count: int) -> None:
        """A logical unit has another size: CAPACITY DATA HAS CHANGED (SBC-3 4.10)."""
        server = self.servers[number]
        if server.unit.block_count != block_count:
            if block_count < server.unit.block_count:
                # Tokens may stand for blocks beyond the end.
                self.tokens.revoke(server.unit)
            server.unit.block_count = block_count
            server.establish(Asc.CAPACITY_DATA_HAS_CHANGED)

    def set_ports(self, tags: Iterable[int]) -> None:
        """Have these portal groups as target ports; the nexuses are told when they were others (SPC-4 6.6.1)."""
        if self.ports.serve(tags):
            for server in self.servers.values():
                server.establish(Asc.INQUIRY_DATA_HAS_CHANGED)
                server.refresh()

    def set_ports_elsewhere(self, states: Mapping[int, AccessState]) -> None:
        """Have these target ports at other nodes that serve the target, too; the nexuses are told of what changed.

        Args:
            states: the asymmetric access states of their groups, by tag.
        """
        ports_changed, states_changed = self.ports.serve_elsewhere(states)
        for server in self.servers.values():
            if ports_changed:
                server.establish(Asc.INQUIRY_DATA_HAS_CHANGED)
            if states_changed:
                server.establish(Asc.ASYMMETRIC_ACCESS_STATE_CHANGED)
            server.refresh()

    def set_access_states(self, states: Mapping[int, AccessState], *, by_nexus: str | None = None) -> None:
        """Change the asymmetric access states of target port groups; the nexuses are told (SPC-4 5.15.2.3).

        Args:
            states: by the tags of groups that are there.
            by_nexus: the I_T nexus that asked for it (explicit); None for a change of the target's own (implicit).
        """
        by = StateChange.IMPLICIT if by_nexus is None else StateChange.EXPLICIT
        if not self.ports.change(states, by):
            return
        for server in self.servers.values():
            server.establish(Asc.ASYMMETRIC_ACCESS_STATE_CHANGED, except_nexus=by_nexus)
            server.refresh()

    def _luns_changed(self) -> None:
        """Tell the nexuses whose list of LUNs is another one: REPORTED LUNS DATA HAS CHANGED (SPC-4 6.33)."""
        for name, nexus in self.nexuses.items():
            numbers = self._visible_numbers(nexus.identity)
            if numbers == nexus.numbers:
                continue
            itls = self._itls[name]
            for number in set(nexus.numbers) - set(numbers):
                for spelling in lun_spellings(number):
                    itls.pop(spelling, None)
                server = self.servers.get(number)
                if server is not None:
                    server.nexus_lost(name)
            nexus.numbers[:] = numbers
            for itl in set(itls.values()):
                itl.establish(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)

    def luns_reported(self, nexus: str) -> None:
        """REPORT LUNS has told a nexus its list: that it changed need not be told any more, at any logical unit
        (SPC-4 6.33)."""
        for itl in set(self._itls[nexus].values()):
            itl.drop_attention(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)

    # Commands

    def itls_of(self, nexus: str) -> Mapping[int, ItlNexus]:
        """The I_T_L nexuses of an open I_T nexus, by LUN field: those that had a command. Changes as they do."""
        return self._itls[nexus]

    def itl_nexus(self, nexus: str, number: int) -> ItlNexus:
        """The I_T_L nexus of an open I_T nexus with a LUN that it may see."""
        return self._itl_nexus(nexus, encode_lun(number))

    def data_out_length(self, lun: int, cdb: bytes) -> int:
        """Bytes of Data-Out that a command takes.

        Args:
            lun: the LUN field as a big-endian integer.
            cdb: the CDB; one below 16 bytes is taken as padded with zeros.

        Returns:
            Zero when it takes none, and when it will be refused for what the CDB says. A unit attention condition
            may still come between. Negative where the CDB does not say: what is sent, at most that many bytes.
        """
        if len(cdb) < CDB_BYTES:
            cdb = cdb.ljust(CDB_BYTES, b"\0")
        server = self._routes.get(lun)
        if server is None:
            return 0
        command = server.commands.find(cdb)
        if command is None or cdb[command.control_offset] & NACA:
            return 0
        return command.data_out_length(server, cdb)

    def start(self, nexus: str, lun: int, cdb: bytes, data_out: memoryview) -> Outcome:
        """Carry out a command, or say what the disk has to do for it. Nothing that a peer sends makes it raise.

        Args:
            nexus: an open I_T nexus.
            lun: the LUN field as a big-endian integer.
            cdb: the CDB; one below 16 bytes is taken as padded with zeros.
            data_out: what the initiator sent, bytes where all of it was immediate; READ and WRITE do not look at it.

        Raises:
            UnknownNexusError: the nexus is not open.
        """
        by_lun = self._itls.get(nexus)
        itl = by_lun.get(lun) if by_lun is not None else None
        if itl is None or itl.interrupted or len(cdb) < CDB_BYTES:
            return self._start_slowly(nexus, lun, cdb, data_out)
        command = itl.commands.get(cdb[0])
        if command is None or cdb[command.control_offset] & NACA:
            return self._start_slowly(nexus, lun, cdb, data_out)
        try:
            outcome = command.handler(itl, cdb, data_out)
        except CheckCondition as condition:
            return itl.server.refuse(condition)
        if type(outcome) is Procedure:
            outcome.steps = self._guarded(itl.server, nexus, outcome.steps)
        return outcome

    def _guarded(self, server: DeviceServer, nexus: str, steps: Steps) -> Steps:
        """The steps of a procedure, which end in a reply whatever happens."""
        due: dict[DeviceServer, None] = {}

        def changed(unit: LogicalUnit, length_bytes: int) -> None:
            other = self.servers.get(unit.number)
            if other is not None and other.threshold_watch.changed(length_bytes):
                due[other] = None

        try:
            reply = yield from written_through(
                steps, self._is_written_through, changed, lambda behind: self._guarded(server, nexus, behind)
            )
            for each in due:
                yield from each.threshold_watch.look(nexus)
            return reply
        except CheckCondition as condition:
            return server.refuse(condition)
        except DiskFault as fault:
            return server.refuse(fault_condition(fault))

    def written(self, transfer: Transfer, nexus: str) -> Background | None:
        """A WRITE is done on the disk and answered.

        Returns:
            Steps to run behind it, to see whether the soft threshold is reached; None for most.
        """
        server = self.servers.get(transfer.logical_unit.number)
        if server is None or not server.threshold_watch.changed(transfer.length_bytes):
            return None
        return Background(_look(server, nexus))

    def _is_written_through(self, unit: LogicalUnit) -> bool:
        server = self.servers.get(unit.number)
        return server is not None and server.write_through

    def storage_failed(self, transfer: Transfer, error_number: int, *, failed_offset_bytes: int | None = None) -> Reply:
        """The answer to a command whose transfer failed on the disk.

        Args:
            transfer: what `start` returned.
            error_number: errno. Of the medium: MEDIUM ERROR with the LBA. No space: DATA PROTECT, SPACE ALLOCATION
                FAILED. Not permitted, or fenced: DATA PROTECT, WRITE PROTECTED. A disk elsewhere that is not reached:
                ABORTED COMMAND, LOGICAL UNIT COMMUNICATION FAILURE or TIME-OUT. Any other: HARDWARE ERROR.
            failed_offset_bytes: where on the disk it failed; None for the beginning of the transfer.
        """
        unit = transfer.logical_unit
        server = self.servers.get(unit.number, self._absent)
        offset_bytes = transfer.offset_bytes if failed_offset_bytes is None else failed_offset_bytes
        fault = DiskFault(unit, OPERATION_NAMES[transfer.operation], error_number, offset_bytes)
        return server.refuse(fault_condition(fault))

    def unit_of(self, lun: int) -> LogicalUnit | None:
        """The logical unit that a LUN field addresses; one without a disk for a well known one; None where none is."""
        server = self._routes.get(lun)
        return None if server is None else server.unit

    def task_set_of(self, nexus: str, lun: int) -> TaskSet | None:
        """The task set of the logical unit that a LUN field addresses, where the nexus may see it: what it sends to
        another must neither wait for the commands of others, nor have them wait. None where there is none."""
        by_lun = self._itls.get(nexus)
        itl = by_lun.get(lun) if by_lun is not None else None
        server = itl.server if itl is not None else self.server_of(nexus, lun)
        return None if server is None else server.task_set

    def server_of(self, nexus: str, lun: int) -> DeviceServer | None:
        """The device server that a LUN field addresses, where the nexus may see it."""
        server = self._routes.get(lun)
        opened = self.nexuses.get(nexus)
        if server is None or opened is None:
            return None
        return server if server.unit.device is None or server.unit.number in opened.numbers else None

    def task_failed(self, lun: int, key: int, code: int, qualifier: int) -> Reply:
        """The answer to a command that the transport could not deliver whole: nothing is done."""
        server = self._routes.get(lun, self._absent)
        return server.refuse(CheckCondition(SenseKey(key), Asc(AdditionalSense(code, qualifier))))

    def data_out_too_long(self, lun: int) -> Reply:
        """The answer to a command that takes its Data-Out exactly, when the initiator means to send more: the CDB
        and the initiator do not mean the same blocks."""
        server = self._routes.get(lun, self._absent)
        return server.refuse(illegal_request(Asc.INVALID_FIELD_IN_CDB))

    def logical_unit_reset(self, lun: int, by_nexus: str) -> bool:
        """LOGICAL UNIT RESET: every nexus gets a unit attention condition, also who asked for it (SAM-5 6.3.3).
        One that is clustered is reset by `reset_elsewhere`.

        Returns:
            False when there is no such logical unit.
        """
        server = self._routes.get(lun)
        if server is None:
            return False
        _reset(server)
        return True

    def target_reset(self, by_nexus: str) -> None:
        """TARGET RESET (warm): as LOGICAL UNIT RESET on every logical unit."""
        for server in self.servers.values():
            _reset(server)

    def reset_elsewhere(self, luns: Collection[int] | None, done: Callable[[], None]) -> None:
        """Have the other nodes that export logical units reset them, too, and this one as they do; calls back when all
        of them have.

        Args:
            luns: LUN fields; None for all.
        """
        for_each([cluster.reset for cluster in self._clusters(luns)], done)

    def clear_elsewhere(self, luns: Collection[int], nexus: str, done: Callable[[], None]) -> None:
        """The same for CLEAR TASK SET of an I_T nexus."""
        who = self.nexuses[nexus].registrant
        for_each([partial(cluster.clear, who) for cluster in self._clusters(luns)], done)

    def release_elsewhere(self, nexus: str, done: Callable[[], None]) -> None:
        """Have the other nodes know that an open I_T nexus, or an earlier one between its ports, has given up what
        RESERVE(6) had reserved for it; calls back when they do, see `ClusterUnit.end_legacy`."""
        who = self.nexuses[nexus].registrant
        for_each([partial(cluster.end_legacy, who) for cluster in self._clusters(None)], done)

    def _clusters(self, luns: Collection[int] | None) -> list[ClusterUnit]:
        servers = (self._routes[lun] for lun in (self._routes if luns is None else luns) if lun in self._routes)
        return list(dict.fromkeys(server.unit.cluster for server in servers if server.unit.cluster is not None))

    def refuses(self, nexus: str, unit: LogicalUnit) -> bool:
        """Whether a nexus whose command has begun may not write to a logical unit any more: another one has reserved
        it since."""
        server = self.servers.get(unit.number)
        return server is not None and server.refuses(nexus)

    def luns_of(self, nexus: str, lun: int) -> Collection[int]:
        """Every LUN field that addresses the logical unit which this one addresses; none where there is none, or the
        nexus may not see it."""
        server = self.server_of(nexus, lun)
        if server is None:
            return ()
        return (lun,) if server.unit.device is None else tuple(lun_spellings(server.unit.number))

    def sees_every_lun(self, nexus: str) -> bool:
        """Whether no LUN is hidden from an open nexus."""
        return len(self.nexuses[nexus].numbers) == len(self.servers)

    def i_t_nexus_reset(self, nexus: str) -> None:
        """I_T NEXUS RESET: as if the nexus were lost, at every logical unit; the nexus itself is told (SAM-5 6.3.4)."""
        opened = self.nexuses[nexus]
        self._itls[nexus].clear()
        for server in self.servers.values():
            itl = server.nexuses.get(nexus)
            server.nexus_lost(nexus)
            if itl is not None:
                power_on = Asc.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
                told = power_on if power_on in itl.attentions else Asc.I_T_NEXUS_LOSS_OCCURRED
                server.nexuses[nexus] = ItlNexus(server, opened, told)

    def pending_attention(self, nexus: str, lun: int) -> bytes | None:
        """QUERY ASYNCHRONOUS EVENT: the unit attention condition that the next command would report (SAM-5 7.9).

        Returns:
            None where there is none; else UADE DEPTH and sense key, additional sense code, and its qualifier.
        """
        attentions = self._itl_nexus(nexus, lun).attentions
        if not attentions:
            return None
        depth = 1 if len(attentions) == 1 else 2
        sense = attentions[0].value
        return bytes((depth << 4 | SenseKey.UNIT_ATTENTION, sense.code, sense.qualifier))

    def aborted_status(self, lun: int) -> bool:
        """TAS of the Control mode page: whether a task that another nexus aborts is answered with TASK ABORTED
        (SAM-5 5.3.1); if not, its nexus gets a unit attention condition instead: see `commands_cleared`."""
        server = self._routes.get(lun)
        return server is not None and server.mode.task_aborted_status

    def commands_cleared(self, lun: int, nexuses: Iterable[str]) -> bool:
        """CLEAR TASK SET by another nexus aborted commands of these nexuses: they get a unit attention condition.

        Returns:
            False when there is no such logical unit.
        """
        server = self._routes.get(lun)
        if server is None:
            return False
        for name in nexuses:
            itl = server.nexuses.get(name)
            if itl is not None:
                itl.establish(Asc.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)
        return True

    def tasks_terminated(self, nexus: str, luns: Iterable[int]) -> None:
        """Tasks of a nexus were ended with the connection that they came by (RFC 7143 section 11.14.5): it gets a unit
        attention condition at these LUN fields."""
        for lun in luns:
            server = self._routes.get(lun)
            itl = server.nexuses.get(nexus) if server is not None else None
            if itl is not None:
                itl.establish(Asc.SOME_COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT)

    def has_lun(self, lun: int) -> bool:
        """Whether this LUN field addresses a logical unit (the REPORT LUNS well known one counts)."""
        return lun in self._routes

    def _start_slowly(self, nexus: str, lun: int, cdb: bytes, data_out: memoryview) -> Outcome:
        """A first command, an interrupted nexus, a service action, an unknown LUN or command, a set NACA bit."""
        if len(cdb) < CDB_BYTES:
            cdb = cdb.ljust(CDB_BYTES, b"\0")
        itl = self._itl_nexus(nexus, lun)
        try:
            outcome = itl.admit(cdb, data_out)
        except CheckCondition as condition:
            return itl.server.refuse(condition)
        if type(outcome) is Procedure:
            outcome.steps = self._guarded(itl.server, nexus, outcome.steps)
        return outcome

    def _itl_nexus(self, nexus: str, lun: int) -> ItlNexus:
        """The I_T_L nexus, made at its first command, so that a nexus costs only what it uses."""
        by_lun = self._itls.get(nexus)
        if by_lun is None:
            raise UnknownNexusError("the I_T nexus is not open", where=nexus, hint="call nexus_opened first")
        itl = by_lun.get(lun)
        if itl is not None:
            return itl
        opened = self.nexuses[nexus]
        server = self.server_of(nexus, lun)
        if server is None:
            return ItlNexus(self._absent, opened)
        by_lun[lun] = itl = server.nexuses.get(nexus) or server.opened(opened)
        return itl


def _reset(server: DeviceServer) -> None:
    """Reset a logical unit that this node alone exports."""
    if server.unit.cluster is None:
        server.reset()
        server.establish(Asc.BUS_DEVICE_RESET_FUNCTION_OCCURRED)


def _look(server: DeviceServer, nexus: str) -> Steps:
    yield from server.threshold_watch.look(nexus)
    return GOOD

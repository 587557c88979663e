"""The session: its command window, its task set and its buffers (RFC 7143 sections 4.2.2 and 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from csvd.iscsi.codes import RESERVED_TAG, CommandFlag, TaskFault
from csvd.iscsi.keys import SessionParameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.iscsi.chap import Credentials
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.node import TargetNode

COLLECTING: Final = 0
"""The task waits for Data-Out, or for a command with a smaller CmdSN."""
READY: Final = 1
"""The task waits in ``TargetConnection.ready`` to be executed."""
EXECUTING: Final = 2
"""The task is with the device server."""
ENDED: Final = 3

MAX_FENCES: Final = 16
"""Requests of a session that may wait for the commands before them without being in CmdSN order themselves."""

MAX_FUNCTIONS: Final = 64
"""Task management functions of a session that may wait for the end of what they abort; the window does not bound
them."""

QUEUE_DEPTH: Final = 64
"""Commands that a session may have outstanding: the CmdSN window. With FirstBurstLength it bounds unsolicited data."""

R2T_BUDGET_BYTES: Final = 8 * 2**20
"""What the R2Ts of one session may ask for at once; further writes wait for their R2T. One task may exceed it alone."""

NO_DATA: Final = memoryview(b"")
"""Data-Out of a task that has none."""

_READ: Final = int(CommandFlag.READ)
_SERIAL_HALF: Final = 2**31
_SERIAL_MASK: Final = 2**32 - 1


class Task:
    """One SCSI command from its arrival to its status. ``__slots__`` and no checks: one is made for each command."""

    __slots__ = (
        "abort_is_told",
        "aborted",
        "burst_end",
        "cdb",
        "cmd_sn",
        "connection",
        "data",
        "data_out_length",
        "data_sn",
        "delivered",
        "expected_length",
        "fault",
        "flags",
        "immediate",
        "initiator_task_tag",
        "leave_queue",
        "lun",
        "on_end",
        "r2t_bytes",
        "r2t_sn",
        "received",
        "session",
        "state",
        "target_transfer_tag",
        "unsolicited",
        "wanted",
    )

    def __init__(
        self,
        session: Session,
        connection: TargetConnection,
        flags: int,
        lun: int,
        initiator_task_tag: int,
        expected_length: int,
        cmd_sn: int,
        cdb: bytes,
    ) -> None:
        self.session = session
        self.connection = connection
        self.flags = flags
        self.lun = lun
        self.initiator_task_tag = initiator_task_tag
        self.expected_length = expected_length
        self.cmd_sn = cmd_sn
        self.cdb = cdb
        self.state = COLLECTING
        self.delivered = False
        self.immediate = False
        self.aborted = False
        self.leave_queue: Callable[[], None] | None = None
        """Set while it waits for its turn in a task set, or for a range of its disk: takes it out of there."""
        self.abort_is_told = False
        """When it was aborted, it is answered with status TASK ABORTED (TAS of the Control mode page)."""
        self.on_end: tuple[Callable[[], None], ...] = ()
        """Called when the execution of an aborted task is over."""
        self.data: Any = NO_DATA
        """Data-Out as far as the command takes it: ``wanted`` bytes, complete when the task is ready."""
        self.data_out_length = 0
        """What the CDB asks for; the difference to ``expected_length`` is the residual."""
        self.wanted = 0
        self.received = 0
        self.unsolicited = False
        self.burst_end = 0
        self.data_sn = 0
        self.fault: TaskFault | None = None
        """Why the task is not executed, but fails."""
        self.r2t_sn = 0
        self.r2t_bytes = 0
        self.target_transfer_tag = RESERVED_TAG

    @property
    def is_read(self) -> bool:
        return self.flags & _READ != 0

    def __repr__(self) -> str:
        state = ("collecting", "ready", "executing", "ended")[self.state]
        return f"<Task {self.initiator_task_tag:#x} cdb={self.cdb.hex()} lun={self.lun:#x} {state}>"


class Session:
    """An I_T nexus (or a discovery session): what its connections share.

    The window: MaxCmdSN runs ahead of ExpCmdSN by the free places of the queue, so it closes as tasks pile up and opens
    as they end (RFC 7143 section 4.2.2.1). It never moves back.
    """

    def __init__(
        self,
        target: TargetNode | None,
        initiator_name: str,
        isid: bytes,
        tsih: int,
        parameters: SessionParameters,
        cmd_sn: int,
        *,
        queue_depth: int = QUEUE_DEPTH,
        portal_group_tag: int = 1,
        proven: Credentials | None = None,
    ) -> None:
        self.target = target
        self.initiator_name = initiator_name
        self.isid = isid
        self.tsih = tsih
        self.parameters = parameters
        """What holds for the session; each connection has its own digests and MaxRecvDataSegmentLength."""
        self.portal_group_tag = portal_group_tag
        self.proven = proven
        """The CHAP user by which the initiator has proved itself."""
        self.queue_depth = queue_depth
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = (cmd_sn + queue_depth - 1) & _SERIAL_MASK
        self.tasks: dict[int, Task] = {}
        self.held: dict[int, tuple[Callable[[], None], TargetConnection | None]] = {}
        """What came before its turn, by CmdSN, and by which connection."""
        self.fences: list[tuple[int, Callable[[], None]]] = []
        """What waits until all commands before a CmdSN have come."""
        self.functions = 0
        """Task management functions that wait for the end of what they abort."""
        self.connections: dict[int, TargetConnection] = {}
        self.r2t_waiting: dict[Task, None] = {}
        """Tasks that wait for their share of the R2T budget, first come first."""
        self.r2t_bytes = 0
        self.predecessors = 0
        """Tasks of an earlier session of this initiator port, or of a connection that is gone, that a disk still works
        on: nothing is executed before they have ended, or an old write could land on a new one. What else must be over
        first counts, too: see `begin_after`."""
        self.behind_predecessors: list[Task] = []
        self.next_transfer_tag = 1
        name = target.name if target else ""
        # SPC-4 section 7.6.4.6 writes an iSCSI initiator port as name,i,0xISID; the target port as name,t,0xTPGT.
        self.nexus = f"{initiator_name},i,0x{isid.hex()},{name},t,0x{portal_group_tag:04x}"

    @property
    def initiator_port(self) -> tuple[str, bytes]:
        """Initiator name and ISID: what a session is reinstated by (RFC 7143 section 4.4.3)."""
        return self.initiator_name, self.isid

    @property
    def discovery(self) -> bool:
        return self.target is None

    def order(self, cmd_sn: int, run: Callable[[], None], connection: TargetConnection | None = None) -> None:
        """Run a non-immediate command in CmdSN order: now, when those before it have come, or never.

        A number outside the window is ignored, as RFC 7143 section 4.2.2.1 demands. The commands of all connections
        of the session stand in one order; ``connection`` is the one that this came by.
        """
        if not self.in_window(cmd_sn):
            return
        if cmd_sn != self.exp_cmd_sn:
            self.held[cmd_sn] = run, connection
            return
        self._advance()
        run()
        if self.held:
            self._run_held(connection)
        if self.fences:
            self._pass_fences()

    def take_next(self, cmd_sn: int) -> bool:
        """Take a command at once, where it is the next one and nothing waits behind it: most are. Else see `order`."""
        if cmd_sn != self.exp_cmd_sn or self.held or self.fences or not self.in_window(cmd_sn):
            return False
        self._advance()
        return True

    def _run_held(self, connection: TargetConnection | None) -> None:
        """Run what was held and is due; ``connection`` needs no waking."""
        while (waiting := self.held.pop(self.exp_cmd_sn, None)) is not None:
            self._advance()
            run_waiting, its_connection = waiting
            run_waiting()
            if its_connection is not connection and its_connection is not None:
                its_connection.wake()

    def when_received(self, cmd_sn: int, run: Callable[[], None]) -> None:
        """Run when all commands before this CmdSN have come: now, or later (RFC 7143 section 4.2.3.3 b)."""
        self.fences.append((cmd_sn, run))
        self._pass_fences()

    def _pass_fences(self) -> None:
        due = [run for cmd_sn, run in self.fences if not self._is_ahead(cmd_sn)]
        if due:
            self.fences = [fence for fence in self.fences if self._is_ahead(fence[0])]
            for run in due:
                run()

    def _is_ahead(self, cmd_sn: int) -> bool:
        """Whether commands before this number are still to come; a number out of reach waits for nothing."""
        return 0 < (cmd_sn - self.exp_cmd_sn) & _SERIAL_MASK <= self.queue_depth

    def has_passed(self, cmd_sn: int) -> bool:
        """Whether all commands before this number have come, and lately; any other is no number of now."""
        return (self.exp_cmd_sn - cmd_sn) & _SERIAL_MASK <= self.queue_depth

    def plug(self, cmd_sn: int) -> None:
        """Take all commands before this CmdSN as received: those that are held run, the others never come."""
        while self._is_ahead(cmd_sn):
            run, its_connection = self.held.pop(self.exp_cmd_sn, (None, None))
            self._advance()
            if run is not None:
                run()
            if its_connection is not None:
                its_connection.wake()
        self._run_held(None)
        if self.fences:
            self._pass_fences()

    def in_window(self, cmd_sn: int) -> bool:
        """Whether this CmdSN lies in ExpCmdSN..MaxCmdSN and is not held already."""
        window = (self.max_cmd_sn - self.exp_cmd_sn) & _SERIAL_MASK
        ahead = (cmd_sn - self.exp_cmd_sn) & _SERIAL_MASK
        return ahead <= window < _SERIAL_HALF and cmd_sn not in self.held

    def _advance(self) -> None:
        self.exp_cmd_sn = (self.exp_cmd_sn + 1) & _SERIAL_MASK
        self.open_window()

    def open_window(self) -> None:
        """Move MaxCmdSN on to what the free places of the queue allow."""
        free = self.queue_depth - len(self.tasks)
        allowed = (self.exp_cmd_sn - 1 + (free if free > 0 else 0)) & _SERIAL_MASK
        if (allowed - self.max_cmd_sn) & _SERIAL_MASK < _SERIAL_HALF:
            self.max_cmd_sn = allowed

    def ready(self, task: Task) -> None:
        """All data of a task is there: hand it to its connection for execution."""
        task.state = READY
        if self.predecessors:
            self.behind_predecessors.append(task)
        else:
            task.connection.ready.append(task)

    def follow(self, predecessors: list[Task]) -> None:
        """Wait for the tasks of an earlier session, or of a lost connection, before anything is executed."""
        self.predecessors += len(predecessors)
        for task in predecessors:
            task.on_end += (self._one_predecessor_ended,)

    def begin_after(self, work: Callable[[Callable[[], None]], None]) -> None:
        """Execute nothing before some work is over, which calls back then."""
        self.predecessors += 1
        work(self._one_predecessor_ended)

    def _one_predecessor_ended(self) -> None:
        self.predecessors -= 1
        if self.predecessors:
            return
        waiting, self.behind_predecessors = self.behind_predecessors, []
        for task in waiting:
            if not task.aborted:
                task.connection.ready.append(task)
                task.connection.wake()

    def grant(self) -> None:
        """Send the R2Ts that the budget has room for, first come first served (RFC 7143 section 4.4)."""
        while self.r2t_waiting:
            task = next(iter(self.r2t_waiting))
            if self.r2t_bytes and self.r2t_bytes + task.wanted > R2T_BUDGET_BYTES:
                return
            del self.r2t_waiting[task]
            task.r2t_bytes = task.wanted
            self.r2t_bytes += task.wanted
            if len(task.data) < task.wanted:
                buffer = memoryview(bytearray(task.wanted))
                kept = min(task.received, task.wanted)
                buffer[:kept] = task.data[:kept]
                task.data = buffer
            task.connection.ready_to_transfer(task)

    def end(self, task: Task) -> None:
        """Take a task out of the task set and give back what it held."""
        task.state = ENDED
        task.data = NO_DATA
        if task.leave_queue is not None:
            task.leave_queue()
        if self.tasks.get(task.initiator_task_tag) is task:
            del self.tasks[task.initiator_task_tag]
        self.r2t_waiting.pop(task, None)
        if task.r2t_bytes:
            self.r2t_bytes -= task.r2t_bytes
            task.r2t_bytes = 0
        self.open_window()
        if self.r2t_waiting:
            self.grant()

    def __repr__(self) -> str:
        kind = "discovery" if self.discovery else "normal"
        return f"<Session {self.tsih:#06x} {self.initiator_name} {kind} tasks={len(self.tasks)}>"


def abort(tasks: list[Task], done: Callable[[], None]) -> None:
    """Abort tasks; call ``done`` when the last of those that are being executed has ended, whoever aborted it first.

    What only waits, in a task set or for a range of its disk, ends at once, whatever it waits for.
    """
    waiting = 1

    def one_ended() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            done()

    idle, executing = [], []
    for task in tasks:
        if task.state == EXECUTING:
            waiting += 1
            task.on_end += (one_ended,)
            task.aborted = True
            executing.append(task)
        elif not task.aborted:
            task.aborted = True
            idle.append(task)
    # All are marked before one goes: its going may give another its turn, which ends that one.
    for task in idle:
        if task in task.connection.ready:
            task.connection.ready.remove(task)
        if task.state != ENDED:
            task.connection.abandon(task)
    withdraw(executing)
    one_ended()


def withdraw(tasks: list[Task]) -> None:
    """Have aborted tasks that are with the device server, but only wait there, end at once."""
    for task in tasks:
        if task.leave_queue is not None:
            task.leave_queue()

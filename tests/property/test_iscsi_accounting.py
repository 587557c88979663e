"""What a session holds for its tasks, after any commands, data, aborts, resets and lost connections: all of it comes
back, and the window opens whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from csvd.iscsi.codes import Opcode, TaskManagementFunction
from csvd.iscsi.node import TARGET_OFFER
from csvd.iscsi.session import ENDED, Session
from tests.iscsi_wire import BLOCK_BYTES, INITIATOR, TARGET, End, Pdu, Wire, pdu

BUDGET_BYTES = 8 * BLOCK_BYTES
QUEUE_DEPTH = 6
PORTS = 2
FIRST_BURST = 4 * BLOCK_BYTES
FUNCTIONS = [
    TaskManagementFunction.ABORT_TASK,
    TaskManagementFunction.ABORT_TASK_SET,
    TaskManagementFunction.CLEAR_TASK_SET,
    TaskManagementFunction.LOGICAL_UNIT_RESET,
    TaskManagementFunction.TARGET_WARM_RESET,
]

ports = st.integers(0, PORTS - 1)
ends = st.integers(0, 1)


@dataclass
class Port:
    """An initiator port: its session, by one or two connections."""

    number: int
    ends: list[End] = field(default_factory=list)
    cmd_sn: int = 1
    unsent: dict[int, bytes] = field(default_factory=dict)
    """The rest of a PDU that is on its way, by connection."""
    r2ts: list[tuple[int, Pdu]] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, Any]:
        return {"isid": bytes((0x80, 0, 0, 0, 0, self.number)), "cmd_sn": self.cmd_sn}


class Accounting(RuleBasedStateMachine):
    """Two initiator ports at one target."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = mock.patch("csvd.iscsi.session.R2T_BUDGET_BYTES", BUDGET_BYTES)
        self.budget.start()
        self.wire = Wire(offer=TARGET_OFFER, queue_depth=QUEUE_DEPTH)
        self.ports = [Port(number) for number in range(PORTS)]
        self.next_tag = 1

    def session(self, port: Port) -> Session | None:
        live = [end.engine.session for end in port.ends if not end.engine.closing]
        return live[0] if live else None

    def living(self, port: Port, place: int) -> int:
        """A connection that is there; a port that has none logs in again."""
        if self.session(port) is None:
            self.log_in(port.number, True)
            port.__dict__.update(self.ports[port.number].__dict__)
            self.ports[port.number] = port
        places = [place for place, end in enumerate(port.ends) if not end.engine.closing]
        return places[place % len(places)]

    def send(self, port: Port, place: int, data: bytes, cut: int = 0) -> None:
        """Send on a connection, all but the last ``cut`` bytes; they go before what is sent next."""
        end = port.ends[place]
        data = port.unsent.pop(place, b"") + data
        whole = len(data) - min(cut, len(data))
        if whole < len(data):
            port.unsent[place] = data[whole:]
        end.feed(data[:whole])
        self.look()

    def look(self) -> None:
        """Run what waits, and note the R2Ts."""
        for port in self.ports:
            for place, end in enumerate(port.ends):
                self.wire.run(end.engine)
                port.r2ts += [(place, answer) for answer in end.answers() if answer.opcode == Opcode.R2T]

    @initialize()
    def begin(self) -> None:
        for number in range(PORTS):
            self.log_in(number, True)

    @rule(number=ports, two=st.booleans())
    def log_in(self, number: int, two: bool) -> None:
        """Log in: for the first time, or in place of the session that is there."""
        port = Port(number)
        self.ports[number] = port
        names = {"InitiatorName": INITIATOR, "TargetName": TARGET}
        keys = names | {"MaxConnections": "2", "InitialR2T": "No", "FirstBurstLength": str(FIRST_BURST)}
        keys |= {"MaxBurstLength": str(FIRST_BURST)}
        first = self.wire.connect()
        (answer,) = first.ask(first.login_pdu(keys, **port.fields))
        assert answer.status == 0
        port.ends = [first]
        if two:
            second = self.wire.connect()
            (joined,) = second.ask(second.login_pdu(names, **port.fields, tsih=answer.tsih, cid=1))
            assert joined.status == 0
            port.ends.append(second)

    @rule(
        number=ports,
        place=ends,
        blocks=st.sampled_from([12, 4, 1, 2, 7]),
        immediate_blocks=st.sampled_from([0, 1, 4]),
        unsolicited=st.sampled_from([False, False, True]),
        at_once=st.booleans(),
        gap=st.sampled_from([0, 0, 0, 1]),
        cut=st.sampled_from([0, 0, 1, 600]),
    )
    def write(
        self,
        number: int,
        place: int,
        blocks: int,
        immediate_blocks: int,
        unsolicited: bool,
        at_once: bool,
        gap: int,
        cut: int,
    ) -> None:
        """A write; at times it leaves out a CmdSN."""
        port = self.ports[number]
        place = self.living(port, place)
        end = port.ends[place]
        data = b"w" * (min(immediate_blocks, blocks) * BLOCK_BYTES)
        fields = {
            "flags": 0x20 if unsolicited else 0xA0,
            "initiator_task_tag": self.next_tag,
            "cmd_sn": port.cmd_sn + gap,
            "opcode": Opcode.SCSI_COMMAND | (0x40 if at_once else 0),
        }
        port.tags.append(self.next_tag)
        self.next_tag += 1
        request = end.write(0, blocks, data, **fields)
        self.send(port, place, request, cut)
        self.resynchronize(port)

    def resynchronize(self, port: Port) -> None:
        """The initiator takes its CmdSN from what the target has acknowledged."""
        session = self.session(port)
        if session is not None:
            port.cmd_sn = session.exp_cmd_sn

    @rule(number=ports, which=st.integers(0, 20), offset=st.sampled_from([0, 0, 0, 512]), cut=st.sampled_from([0, 9]))
    def data_out(self, number: int, which: int, offset: int, cut: int) -> None:
        """The data of an R2T, at times for a wrong place."""
        port = self.ports[number]
        if not port.r2ts:
            return
        place, r2t = port.r2ts.pop(which % len(port.r2ts))
        if place >= len(port.ends) or port.ends[place].engine.closing:
            return
        fields = {
            "flags": 0x80,
            "initiator_task_tag": r2t.initiator_task_tag,
            "target_transfer_tag": r2t.target_transfer_tag,
            "buffer_offset": r2t.buffer_offset + offset,
        }
        self.send(port, place, pdu(Opcode.DATA_OUT, b"d" * r2t.desired_data_transfer_length, **fields), cut)

    @rule(number=ports, place=ends, function=st.sampled_from(FUNCTIONS), which=st.integers(0, 50))
    def manage(self, number: int, place: int, function: int, which: int) -> None:
        port = self.ports[number]
        place = self.living(port, place)
        fields = {"function": 0x80 | function, "cmd_sn": port.cmd_sn, "ref_cmd_sn": port.cmd_sn - 1}
        fields["referenced_task_tag"] = port.tags[which % len(port.tags)] if port.tags else 0
        self.send(port, place, pdu(Opcode.TASK_MANAGEMENT_REQUEST, opcode=0x42, initiator_task_tag=0x9000, **fields))
        self.resynchronize(port)

    @rule(number=ports, place=ends)
    def lose(self, number: int, place: int) -> None:
        """A connection is lost."""
        port = self.ports[number]
        port.ends[place % len(port.ends)].engine.lost()
        self.look()

    @rule(slow=st.booleans())
    def disk(self, slow: bool) -> None:
        """The disk is done with what it works on; from now on it may take its time."""
        self.fast()
        self.wire.hold = slow

    def fast(self) -> None:
        self.wire.hold = False
        while self.wire.held:
            held, self.wire.held = self.wire.held, []
            for task in held:
                self.wire.execute(task)
            self.look()

    @invariant()
    def the_budget_is_what_its_tasks_hold(self) -> None:
        leaving = self.wire.target.leaving
        for session in self.wire.target.sessions.values():
            tasks = [*session.tasks.values(), *(task for task in leaving if task.session is session)]
            shares = [task.r2t_bytes for task in tasks if task.r2t_bytes]
            assert session.r2t_bytes == sum(shares)
            assert session.r2t_bytes <= BUDGET_BYTES or len(shares) == 1
            assert all(task.state != ENDED for task in session.tasks.values())
            assert set(session.r2t_waiting) <= set(session.tasks.values())
            assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF <= QUEUE_DEPTH

    def teardown(self) -> None:
        try:
            self.all_comes_back()
        finally:
            self.budget.stop()

    def all_comes_back(self) -> None:
        self.fast()
        for port in self.ports:
            for place, end in enumerate(port.ends):
                if place in port.unsent and not end.engine.closing:
                    self.send(port, place, b"")
            self.fast()
            self.resynchronize(port)
            for place, end in enumerate(port.ends):
                if not end.engine.closing:
                    self.manage(port.number, place, TaskManagementFunction.TARGET_WARM_RESET, 0)
            self.fast()
        assert not self.wire.target.leaving
        for session in self.wire.target.sessions.values():
            assert not session.tasks
            assert session.r2t_bytes == 0
            assert not session.r2t_waiting
            assert session.predecessors == 0
            assert not session.behind_predecessors
            assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF == QUEUE_DEPTH
        for port in self.ports:
            for end in port.ends:
                end.engine.lost()
        assert not self.wire.target.sessions
        assert not self.wire.router.nexuses


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def test_an_immediate_command_ends_with_a_function_that_has_its_number() -> None:
    state = Accounting()
    state.begin()
    state.write(number=1, place=0, blocks=12, immediate_blocks=0, unsolicited=False, at_once=True, gap=0, cut=1)
    state.teardown()

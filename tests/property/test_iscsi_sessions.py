"""Sessions of several connections, under any interleaving and any loss: one order, no command twice, nothing kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csvd.iscsi.codes import Opcode
from csvd.iscsi.node import TARGET_OFFER
from csvd.iscsi.session import Task
from tests.iscsi_wire import BLOCK_BYTES, INITIATOR, TARGET, WRITE10, End, Wire, cdb10, pdu

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
WRITES = 12
CONNECTIONS = 3


def session(wire: Wire) -> list[End]:
    ends = [wire.connect() for _ in range(CONNECTIONS)]
    tsih = ends[0].login(MaxConnections=str(CONNECTIONS), InitialR2T="No").tsih
    for cid, end in enumerate(ends[1:], 1):
        (answer,) = end.ask(end.login_pdu(NAMES, tsih=tsih, cid=cid))
        assert answer.status == 0
    return ends


def write(number: int) -> bytes:
    """The write with CmdSN 1 + number: its number into the one block that all of them write."""
    fields = {"flags": 0xA0, "cdb": cdb10(WRITE10, 0, 1), "expected_data_transfer_length": BLOCK_BYTES}
    data = bytes((number,)) * BLOCK_BYTES
    return pdu(Opcode.SCSI_COMMAND, data, cmd_sn=1 + number, initiator_task_tag=number, **fields)


def settle(ends: list[End], answered: list[int]) -> None:
    for end in ends:
        end.wire.run(end.engine)
        answered += [answer.initiator_task_tag for answer in end.answers()]


@given(st.permutations(range(WRITES)), st.lists(st.integers(0, CONNECTIONS - 1), min_size=WRITES, max_size=WRITES))
def test_commands_are_delivered_in_the_order_of_cmd_sn_whatever_comes_first_by_whichever_connection(
    order: list[int], by: list[int]
) -> None:
    wire = Wire(offer=TARGET_OFFER)
    ends = session(wire)
    (the_session,) = wire.target.sessions.values()
    delivered: list[int] = []
    deliver = the_session.ready

    def ready(task: Task) -> None:
        delivered.append(task.cmd_sn - 1)
        deliver(task)

    the_session.ready = ready  # type: ignore[method-assign]
    answered: list[int] = []
    for place, number in enumerate(order):
        ends[by[number]].feed(write(number))
        settle(ends, answered)
        # All that is in order so far is done, and nothing that is not.
        come = order[: place + 1]
        done = next((each for each in range(WRITES) if each not in come), WRITES)
        assert delivered == list(range(done))
        assert sorted(answered) == delivered


@given(
    st.permutations(range(WRITES)),
    st.lists(st.integers(0, CONNECTIONS - 1), min_size=WRITES, max_size=WRITES),
    st.lists(st.integers(0, WRITES - 1), max_size=CONNECTIONS - 1, unique=True),
    st.booleans(),
)
def test_what_connections_take_with_them_is_retried_by_the_last_one_and_nothing_is_left(
    order: list[int], by: list[int], cuts: list[int], hold: bool
) -> None:
    wire = Wire(offer=TARGET_OFFER)
    ends = session(wire)
    (the_session,) = wire.target.sessions.values()
    alive = list(ends)
    answered: list[int] = []
    wire.hold = hold
    for place, number in enumerate(order):
        if place in cuts:
            lost = alive.pop(0)
            lost.engine.end()
        end = ends[by[number]]
        (end if end in alive else alive[0]).feed(write(number))
    wire.hold = False
    wire.finish()
    settle(alive, answered)
    # The initiator sends again what is not acknowledged, in order, by a connection that it still has.
    for number in range(the_session.exp_cmd_sn - 1, WRITES):
        alive[-1].feed(write(number))
        wire.finish()
        settle(alive, answered)
    assert len(answered) == len(set(answered)), "no command was answered twice"
    assert the_session.exp_cmd_sn == 1 + WRITES
    assert not the_session.tasks
    assert not the_session.held
    assert not wire.target.leaving
    assert the_session.predecessors == 0
    assert (the_session.max_cmd_sn - the_session.exp_cmd_sn + 1) & 0xFFFFFFFF == the_session.queue_depth
    for end in alive:
        end.engine.end()
    assert not wire.target.sessions
    assert not wire.router.nexuses

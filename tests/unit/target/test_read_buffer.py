"""The buffer that READs share: it is one again and again, and never two at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from csvd.iscsi.session import Task
from csvd.target.connection import ServerConnection
from csvd.target.read_buffer import KEPT_BYTES, ReadBuffer
from tests.iscsi_wire import BLOCK_BYTES
from tests.unit.target.test_connection import MemoryExecutor, Rig


class ReadingExecutor(MemoryExecutor):
    """Answers READ(10)s as the executor of a target does, from a disk where each block holds its own number."""

    def execute(self, connection: ServerConnection, task: Task) -> None:
        lba, blocks = int.from_bytes(task.cdb[2:6]), int.from_bytes(task.cdb[7:9])
        buffer = connection.read_buffer(blocks * BLOCK_BYTES)
        for block in range(blocks):
            buffer[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = bytes([(lba + block) % 251]) * BLOCK_BYTES
        connection.engine.data_in(task, buffer)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.executor = ReadingExecutor(rig.wire)
    yield rig
    rig.peer.close()
    rig.connection.abort()


def test_what_was_sent_leaves_its_buffer_to_the_next() -> None:
    reads = ReadBuffer()
    first = reads.take(65536)
    reads.sent()
    assert reads.take(4096).obj is first.obj


def test_two_that_are_not_sent_have_two_buffers() -> None:
    reads = ReadBuffer()
    assert reads.take(4096).obj is not reads.take(4096).obj


def test_what_waits_to_be_sent_is_not_written_over() -> None:
    reads = ReadBuffer()
    first = reads.take(4096)
    reads.keep()
    assert reads.take(4096).obj is not first.obj


def test_no_more_than_a_mebibyte_is_kept() -> None:
    reads = ReadBuffer()
    first = reads.take(KEPT_BYTES + 512)
    reads.sent()
    assert reads.take(KEPT_BYTES + 512).obj is not first.obj


def test_answers_that_wait_for_the_peer_hold_what_was_read(rig: Rig) -> None:
    rig.login()
    for index in range(40):
        rig.peer.sendall(rig.requests.read(index, 256))
        rig.reactor.turn()
    assert rig.connection._unsent_bytes
    data: dict[int, bytes] = {}
    while len(data) < 40:
        rig.reactor.turn()
        for answer in rig.answers():
            data[answer.initiator_task_tag] = answer.data
    for tag, read in data.items():
        assert [read[at] for at in range(0, len(read), BLOCK_BYTES)] == [
            (tag - 1 + block) % 251 for block in range(256)
        ]


def test_out_of_its_turn_a_connection_has_a_buffer_of_its_own(rig: Rig) -> None:
    rig.login()
    mine = rig.connection.read_buffer(4096)
    rig.peer.sendall(rig.requests.read(0, 1))
    rig.reactor.turn()
    assert rig.connection.read_buffer(4096).obj is not mine.obj
    assert not any(mine)

"""The express path: a READ or WRITE that can be answered at once, from the receive buffer to its answer in one loop.

Most commands of a busy target are alike: READ(10), READ(16), WRITE(10) or WRITE(16), next in CmdSN order, with all
their data there, of a nexus and a logical unit about which nothing is to be looked at, on a disk that has the range at
hand. For such a command no object is made but the tuple of its fields: it never enters the task set, for its answer
stands in the output before anybody could ask for it. Whatever is different in any way is left where it is, for the
engine, the device server and the executor, which know everything; so each condition here may be too strict, and none
may be too lax.

Data-In is read behind the place of its header, so that all answers of a turn lie in one buffer and go out by one
``send`` of one piece. The buffer is one for all connections: at the end of a turn it is free again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from csvd.iscsi.codes import BHS_BYTES, FINAL, RESERVED_TAG, CommandFlag, DataInFlag, Opcode
from csvd.iscsi.digests import CRC32C, DIGEST_BYTES, digest_of
from csvd.iscsi.layouts import DATA_IN, SCSI_COMMAND, SCSI_RESPONSE, picking
from csvd.scsi.cdb import CdbLayout
from csvd.scsi.commands.media import DPO, FUA, TRANSFER_10, TRANSFER_16
from csvd.scsi.outcome import WRITE, Transfer
from csvd.target.durable_writes import DurableWrites

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus
    from csvd.storage.disk import Disk
    from csvd.target.connection import ServerConnection
    from csvd.target.executor import Executor
    from csvd.target.statistics import Row

EXPRESS_BYTES: Final = 256 * 1024
"""The longest transfer that is taken; larger ones go by sendfile, or into their place."""
SCRATCH_BYTES: Final = 384 * 1024
"""Answers of one ``send``. More would fall out of the processor's cache before it is sent."""
FULL_BYTES: Final = SCRATCH_BYTES - EXPRESS_BYTES - BHS_BYTES - DIGEST_BYTES
"""With more in the buffer there may be no room for one more answer."""
MERGED_WRITES: Final = 64
"""The most adjacent writes that go to the disk as one."""

FLUSHED_WRITES: Final = 16
"""The most WRITEs that one call for a flush is for. While the device writes some, others are taken: in one batch of
all, the device would wait for the next commands, and they for the device."""

_CDB_OFFSET: Final = 32
"""Where the CDB stands in a SCSI Command (RFC 7143 section 11.3)."""
_SERIAL_TOP: Final = 2**32 - 2**14
"""Sequence numbers from here on may come to their wrap within one receive buffer; the engine takes them over it."""

# Plain numbers: an IntFlag makes an object of each result.
_SCSI_COMMAND: Final = int(Opcode.SCSI_COMMAND)
_DATA_IN: Final = int(Opcode.DATA_IN)
_SCSI_RESPONSE: Final = int(Opcode.SCSI_RESPONSE)
_FINAL: Final = int(FINAL)
_DATA_IN_GOOD: Final = int(FINAL | DataInFlag.STATUS)
_PLAIN_READ: Final = int(FINAL | CommandFlag.READ)
_PLAIN_WRITE: Final = int(FINAL | CommandFlag.WRITE)
_PLAIN_FLAGS: Final = 0xFE
"""All flags but the lowest bit of ATTR: untagged and simple tasks are alike (RFC 7143 section 11.3.1)."""
_CDB_FLAGS: Final = 0xFF & ~DPO
"""What counts in byte 1 of the CDB: protection and FUA. DPO is a hint that the page cache has no use for."""

_pack_data_in: Final = picking(
    DATA_IN,
    "opcode",
    "flags",
    "lengths",
    "initiator_task_tag",
    "target_transfer_tag",
    "stat_sn",
    "exp_cmd_sn",
    "max_cmd_sn",
).pack_into
_pack_response: Final = picking(
    SCSI_RESPONSE, "opcode", "flags", "initiator_task_tag", "stat_sn", "exp_cmd_sn", "max_cmd_sn"
).pack_into


def _command(cdb: CdbLayout) -> struct.Struct:
    """What is to be known of a SCSI Command with such a CDB, by one ``unpack_from``."""
    header = picking(
        SCSI_COMMAND,
        "opcode",
        "flags",
        "lengths",
        "lun",
        "initiator_task_tag",
        "expected_data_transfer_length",
        "cmd_sn",
    ).format.removesuffix("16x")
    fields = cdb.unpacker("flags", "logical_block_address", "transfer_length", "control").format
    return struct.Struct(header + fields.removeprefix(">"))


_UNPACK: Final[dict[int, Any]] = {
    code: _command(layout).unpack_from
    for code, layout in ((0x28, TRANSFER_10), (0x88, TRANSFER_16), (0x2A, TRANSFER_10), (0x8A, TRANSFER_16))
}
"""By operation code."""
_READS: Final = frozenset((0x28, 0x88))


class Scratch:
    """Where the answers of a turn are put together.

    Attributes:
        used: how much of it holds answers that were not sent yet.
    """

    __slots__ = ("buffer", "used", "view")

    def __init__(self, size_bytes: int = SCRATCH_BYTES) -> None:
        self.buffer = bytearray(size_bytes)
        self.view = memoryview(self.buffer)
        self.used = 0


class _Road:
    """What commands of one operation code to one LUN field meet, as long as nothing is in their way.

    Attributes:
        block_bytes: logical block length.
        most_bytes: the longest transfer that is taken here.
        nowait: `read_nowait` or `write_nowait` of the disk.
        row: their counters.
        server, unit: where they go.
    """

    __slots__ = ("_gate", "_is_write", "_itl", "block_bytes", "most_bytes", "nowait", "row", "server", "unit")

    def __init__(self, itl: ItlNexus, row: Row, most_bytes: int, *, is_write: bool) -> None:
        unit = itl.unit
        self._itl = itl
        self.server = itl.server
        self._is_write = is_write
        self.unit = unit
        self.row = row
        self.block_bytes = unit.block_bytes
        self.most_bytes = min(most_bytes, EXPRESS_BYTES, unit.maximum_transfer_bytes)
        # Whether this node may act at all is seen once for all commands of a run.
        self._gate = self.server.task_set.gate
        disk: Disk = unit.device if self._gate is None else unit.device.ungated
        self.nowait: Callable[[Any, int], bool] = disk.write_nowait if is_write else disk.read_nowait

    def is_open(self, itl: ItlNexus | None) -> bool:
        """Whether a command may go straight to the disk now, where this is its I_T_L nexus."""
        server = self.server
        return (
            itl is self._itl
            and not itl.interrupted
            and not self.unit.locks.contended
            and server.task_set.is_free
            and not (self._is_write and server.write_protected)
            and (self._gate is None or self._gate.admits())
        )


class Express:
    """The express path of one connection in full-feature phase, without a header digest. With a data digest it takes
    READs alone: what comes with a WRITE must be checked first.

    Args:
        connection: its adapter, which calls `run`, sends what is in the scratch buffer, and then has it empty.
        executor: of its session's target.

    Attributes:
        data_digest: whether data segments have one.
        disk_waits: a disk did not take a WRITE at once: no other one is offered to it before the next turn.
    """

    __slots__ = (
        "_connection",
        "_counter",
        "_engine",
        "_executor",
        "_itls",
        "_roads",
        "_segment_bytes",
        "_session",
        "data_digest",
        "disk_waits",
        "receiver",
        "scratch",
    )

    def __init__(self, connection: ServerConnection, executor: Executor) -> None:
        engine = connection.engine
        assert engine.session is not None
        self._connection = connection
        self._engine = engine
        self._session = engine.session
        self._executor = executor
        self._counter = connection.counter
        self._itls = executor.device.itls_of(engine.session.nexus)
        self._segment_bytes = 0
        self._roads: dict[tuple[int, int], _Road] = {}
        self.receiver = engine.receiver
        self.scratch = connection.scratch
        self.disk_waits = False
        self.data_digest = engine.parameters.data_digest == CRC32C

    def run(self) -> bool:
        """Take and answer commands from the start of what was received, up to the first that is not for here.

        Gives whether any was taken; the answers stand in the scratch buffer, behind what was there.
        """
        session, engine, receiver = self._session, self._engine, self.receiver
        if session.held or session.fences or session.predecessors or engine.closing:
            return False
        if engine.answers.segment_bytes != self._segment_bytes:  # the initiator has declared another one
            self._segment_bytes = engine.answers.segment_bytes
            self._roads.clear()
        begin, buffer = receiver.start, receiver.buffer
        while receiver.end - receiver.start >= BHS_BYTES:
            exp_cmd_sn, max_cmd_sn = session.exp_cmd_sn, session.max_cmd_sn
            # A command that is answered at once takes no place of the queue: both ends of the window move on by one.
            if not max_cmd_sn + 1 - exp_cmd_sn == session.queue_depth - len(session.tasks) > 0:
                break
            if max_cmd_sn > _SERIAL_TOP or engine.stat_sn > _SERIAL_TOP:
                break
            start = receiver.start
            code = buffer[start + _CDB_OFFSET]
            unpack = _UNPACK.get(code)
            if unpack is None:
                break
            if code in _READS:
                self._read(code, unpack)
            elif self.disk_waits or self.data_digest:
                break
            else:
                self._write(code, unpack)
            if receiver.start == start:
                break
        return receiver.start != begin

    def _road(self, lun: int, code: int) -> _Road | None:
        """See whether commands may go straight to the disk; None where something must be looked at first."""
        itl = self._itls.get(lun)
        road = self._roads.get((lun, code))
        if road is not None and road.is_open(itl):
            return road
        # As many roads as a nexus has used logical units, so what a peer sends can not make them many.
        if itl is None or code not in itl.commands or itl.unit.device is None:
            return None
        is_write = code not in _READS
        parameters, answers = self._session.parameters, self._engine.answers
        most_bytes = min(answers.segment_bytes, answers.burst_bytes)
        if is_write:
            most_bytes = parameters.first_burst_length if parameters.immediate_data else 0
        road = self._roads[lun, code] = _Road(itl, self._executor.row(lun, code), most_bytes, is_write=is_write)
        return road if road.is_open(itl) else None

    def _read(self, code: int, unpack: Any) -> None:
        """READs of one operation code and one LUN, one after the other."""
        session, engine, receiver, scratch = self._session, self._engine, self.receiver, self.scratch
        buffer, start, last = receiver.buffer, receiver.start, receiver.end - BHS_BYTES
        out, view, place, room = scratch.buffer, scratch.view, scratch.used, len(scratch.buffer)
        exp_cmd_sn, max_cmd_sn, stat_sn = session.exp_cmd_sn, session.max_cmd_sn, engine.stat_sn
        tasks, first_sn, first_place, lun, road = session.tasks, stat_sn, place, -1, None
        digest_bytes = DIGEST_BYTES if self.data_digest else 0
        while start <= last and buffer[start + _CDB_OFFSET] == code:
            opcode, flags, lengths, its_lun, tag, expected, cmd_sn, cdb_flags, lba, blocks, control = unpack(
                buffer, start
            )
            if its_lun != lun:
                if road is not None or (road := self._road(its_lun, code)) is None:
                    break
                lun, block_bytes, most_bytes, read_nowait = its_lun, road.block_bytes, road.most_bytes, road.nowait
                block_count = road.unit.block_count
            data_end = place + BHS_BYTES + expected
            end = data_end + digest_bytes
            if (
                opcode != _SCSI_COMMAND
                or cmd_sn != exp_cmd_sn
                or flags & _PLAIN_FLAGS != _PLAIN_READ
                or lengths
                or cdb_flags & _CDB_FLAGS
                or control
                or not 0 < expected <= most_bytes
                or blocks * block_bytes != expected
                or lba + blocks > block_count
                or end > room
                or tag in tasks
                or not read_nowait(view[place + BHS_BYTES : data_end], lba * block_bytes)
            ):
                break
            if digest_bytes:  # a whole number of blocks needs no padding
                out[data_end:end] = digest_of(view[place + BHS_BYTES : data_end])
            exp_cmd_sn += 1
            max_cmd_sn += 1
            _pack_data_in(
                out, place, _DATA_IN, _DATA_IN_GOOD, expected, tag, RESERVED_TAG, stat_sn, exp_cmd_sn, max_cmd_sn
            )
            stat_sn += 1
            place = end
            start += BHS_BYTES
        count = stat_sn - first_sn
        if count:
            assert road is not None
            session.exp_cmd_sn, session.max_cmd_sn, engine.stat_sn = exp_cmd_sn, max_cmd_sn, stat_sn
            receiver.start, scratch.used = start, place
            self._counter.count_run(road.row, count, place - first_place - count * (BHS_BYTES + digest_bytes), 0)

    def _write(self, code: int, unpack: Any) -> None:
        """WRITEs of one operation code and one LUN whose data has come with them. Those that are adjacent on the disk
        go to it as one; what it does not take at once is not taken from the receive buffer either."""
        session, receiver = self._session, self.receiver
        buffer, received, start, last = receiver.buffer, receiver.view, receiver.start, receiver.end
        tasks, exp_cmd_sn, lun, road, durable = session.tasks, session.exp_cmd_sn, -1, None, None
        pieces: list[memoryview] = []
        tags: list[int] = []
        offset_bytes = end_bytes = written_bytes = count = 0
        while last - start >= BHS_BYTES and buffer[start + _CDB_OFFSET] == code:
            opcode, flags, lengths, its_lun, tag, expected, cmd_sn, cdb_flags, lba, blocks, control = unpack(
                buffer, start
            )
            if its_lun != lun:
                if road is not None or (road := self._road(its_lun, code)) is None:
                    break
                lun, block_bytes, most_bytes, write_nowait = its_lun, road.block_bytes, road.most_bytes, road.nowait
                block_count, fua = road.unit.block_count, cdb_flags & FUA
                room = (len(self.scratch.buffer) - self.scratch.used) // BHS_BYTES
                if fua or road.server.write_through:
                    durable, room = self._durable(road, room)
            behind = start + BHS_BYTES + expected
            if (
                opcode != _SCSI_COMMAND
                or cmd_sn != exp_cmd_sn
                or flags & _PLAIN_FLAGS != _PLAIN_WRITE
                or lengths != expected
                or cdb_flags & _CDB_FLAGS != fua
                or control
                or not 0 < expected <= most_bytes
                or blocks * block_bytes != expected
                or lba + blocks > block_count
                or behind > last
                or tag in tasks
                or count + len(tags) >= room
            ):
                break
            if lba * block_bytes != end_bytes or len(pieces) >= MERGED_WRITES:
                if pieces:
                    if not self._put(pieces, offset_bytes, tags, durable, write_nowait):
                        pieces.clear()
                        break
                    count += len(tags)
                    written_bytes += end_bytes - offset_bytes
                    receiver.start = start
                    pieces.clear()
                    tags.clear()
                offset_bytes = end_bytes = lba * block_bytes
            pieces.append(received[start + BHS_BYTES : behind])
            tags.append(tag)
            end_bytes += expected
            exp_cmd_sn += 1
            start = behind
        if pieces and self._put(pieces, offset_bytes, tags, durable, write_nowait):
            count += len(tags)
            written_bytes += end_bytes - offset_bytes
            receiver.start = start
        if count:
            assert road is not None
            if durable is None:
                self._counter.count_run(road.row, count, 0, written_bytes)
            else:
                durable.begin()
            if road.unit.thin:
                self._executor.changed(Transfer(WRITE, road.unit, 0, written_bytes, False), session.nexus)

    def _durable(self, road: _Road, room: int) -> tuple[DurableWrites | None, int]:
        """Where WRITEs go that must be durable before their answer, and how many there is room for; None and the same
        room where all that is written is durable."""
        if not road.unit.device.capabilities.volatile_cache:
            return None, room
        if road.unit.cluster is not None:
            # They may have to wait for the gate between the write and the flush, and be written once more.
            return None, 0
        room = min(self._session.queue_depth - len(self._session.tasks), FLUSHED_WRITES)
        return DurableWrites(self._executor, self._connection, road.server, road.row), room

    def _put(
        self,
        pieces: list[memoryview],
        offset_bytes: int,
        tags: list[int],
        durable: DurableWrites | None,
        write_nowait: Callable[[Any, int], bool],
    ) -> bool:
        """Write adjacent WRITEs as one, and answer them in their order (RFC 7143 section 11.4) or have them wait; gives
        whether the disk took them at once."""
        if not write_nowait(pieces, offset_bytes):
            self.disk_waits = True
            return False
        session, engine, scratch = self._session, self._engine, self.scratch
        if durable is not None:
            durable.take(self.receiver.view, self.receiver.start, len(tags))
            session.exp_cmd_sn += len(tags)
            return True
        out, place = scratch.buffer, scratch.used
        exp_cmd_sn, max_cmd_sn, stat_sn = session.exp_cmd_sn, session.max_cmd_sn, engine.stat_sn
        for tag in tags:
            exp_cmd_sn += 1
            max_cmd_sn += 1
            _pack_response(out, place, _SCSI_RESPONSE, _FINAL, tag, stat_sn, exp_cmd_sn, max_cmd_sn)
            stat_sn += 1
            place += BHS_BYTES
        session.exp_cmd_sn, session.max_cmd_sn, engine.stat_sn = exp_cmd_sn, max_cmd_sn, stat_sn
        scratch.used = place
        return True

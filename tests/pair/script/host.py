"""An initiator by hand: it keeps the rules, and holds the target to them, byte by byte."""

from __future__ import annotations

import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

from crc32c import crc32c

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, RESERVED_TAG, Opcode
from csvd.iscsi.layouts import FAST
from tests.iscsi_wire import TARGET, pdu
from tests.pair.script.steps import ASKS, BLOCK_BYTES, Ask, Manage, Manner, Ping, Transfer

MASK = 2**32 - 1
QUEUE_DEPTH = 64
FOREVER = 1 << 60

_WITH_STATUS = frozenset(
    {
        Opcode.NOP_IN,
        Opcode.SCSI_RESPONSE,
        Opcode.TASK_MANAGEMENT_RESPONSE,
        Opcode.REJECT,
        Opcode.ASYNC_MESSAGE,
    }
)


class Sent:
    """A request, and what became of it. Times are those of the world's clock, which counts."""

    def __init__(self, step: Transfer | Ask | Ping | Manage, host: Host, tag: int, *, urgent: bool) -> None:
        self.step = step
        self.host = host
        self.tag = tag
        self.urgent = urgent
        self.cmd_sn = 0
        self.place = 0
        """In the order in which the host said it."""
        self.sent_at = FOREVER
        self.answered_at = FOREVER
        self.dead_at = FOREVER
        """When a task management function had ended it."""
        self.may_be_dead = False
        self.data = bytearray()
        self.payload = b""
        """What it writes, or sends along."""
        self.segments = 0
        self.status: int | None = None
        self.sense = b""
        self.response = 0
        self.residual = (0, 0)
        """Overflow and underflow flag, count."""
        self.rejected = False
        self.about: Sent | None = None
        """The task of an ABORT TASK."""
        self.asked = False
        """An R2T came for it."""
        self.outgoing = b""

    @property
    def is_answered(self) -> bool:
        return self.answered_at < FOREVER

    def __repr__(self) -> str:
        return f"<{self.tag} {self.step} sent {self.sent_at} answered {self.answered_at} status {self.status}>"


class Host:
    """One session of one connection."""

    def __init__(self, number: int, manner: Manner, sock: socket.socket) -> None:
        self.number = number
        self.manner = manner
        self.sock = sock
        self.reads = True
        self.cut = False
        self.digests = False
        """From the end of the login on, what was negotiated."""
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.exp_cmd_sn, self.max_cmd_sn = 1, 1
        self.sent: dict[int, Sent] = {}
        self.output = bytearray()
        """Everything that the target has said."""
        self.attentions = 0
        self._held: tuple[Sent, bytes] | None = None
        self._swap_is_due = False
        self._waiting: deque[tuple[Sent, bytes]] = deque()
        self._stream = bytearray()
        self._starts: deque[tuple[int, Sent]] = deque()
        """Where in the stream requests begin, counted from the first byte ever."""
        self._ends: deque[int] = deque()
        """Where PDUs end in it."""
        self._put_bytes = self._pushed_bytes = 0
        self._parsed_bytes = 0

    # What it says

    def login(self) -> None:
        keys = {
            "InitiatorName": f"iqn.2026-11.test:host{self.number}",
            "SessionType": "Normal",
            "TargetName": TARGET,
            "InitialR2T": "Yes" if self.manner.initial_r2t else "No",
            "ImmediateData": "Yes" if self.manner.immediate_data else "No",
            "FirstBurstLength": str(min(self.manner.first_burst, self.manner.max_burst)),
            "MaxBurstLength": str(self.manner.max_burst),
            "MaxRecvDataSegmentLength": str(self.manner.segment),
            "HeaderDigest": "CRC32C" if self.manner.header_digest else "None",
            "DataDigest": "CRC32C" if self.manner.data_digest else "None",
        }
        isid = bytes((0x80, 0, 0, 0, 0, self.number))
        fields: dict[str, Any] = {"opcode": 0x43, "flags": 0x87, "isid": isid, "cmd_sn": self.cmd_sn}
        self._put(pdu(Opcode.LOGIN_REQUEST, text.build(keys.items()), **fields))

    def logged_in(self) -> None:
        """Take the answer to the login."""
        self.output += self.sock.recv(1 << 16)
        (answer,) = self._take_pdus()
        assert answer[0] == Opcode.LOGIN_RESPONSE
        assert answer[1].status == 0
        self.exp_stat_sn = answer[1].stat_sn + 1
        self.exp_cmd_sn, self.max_cmd_sn = answer[1].exp_cmd_sn, answer[1].max_cmd_sn
        self.digests = self.manner.header_digest or self.manner.data_digest
        self.output.clear()
        self._parsed_bytes = 0

    def swap(self) -> None:
        self._swap_is_due = True

    def say(self, sent: Sent) -> None:
        """Say something, as soon as the window and a swap allow it."""
        sent.place = len(self.sent)
        self.sent[sent.tag] = sent
        sent.cmd_sn = self.cmd_sn
        if not sent.urgent:
            self.cmd_sn = self.cmd_sn + 1 & MASK
        bytes_of_it = self._pdus_of(sent)
        if isinstance(sent.step, Manage) or sent.urgent:
            self.release_held()
        elif self._held is not None:
            self._waiting.append((sent, bytes_of_it))
            self.release_held()
            self._release()
            return
        elif self._swap_is_due:
            self._swap_is_due = False
            self._held = sent, bytes_of_it
            return
        self._waiting.append((sent, bytes_of_it))
        self._release()

    def release_held(self) -> None:
        if self._held is not None:
            self._waiting.append(self._held)
            self._held = None
        self._release()

    def _release(self) -> None:
        while self._waiting:
            sent, bytes_of_it = self._waiting[0]
            if not sent.urgent and (self.max_cmd_sn - sent.cmd_sn) & MASK >= 1 << 31:
                return
            self._waiting.popleft()
            self._starts.append((self._put_bytes, sent))
            self._put(bytes_of_it)

    def _put(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            begin = start + BHS_BYTES
            end = begin + (int.from_bytes(data[start + 5 : start + 8]) + 3 & ~3)
            one = data[start:begin]
            if self.digests and self.manner.header_digest:
                one += digest(one)
            if end > begin:
                segment = data[begin:end]
                one += segment
                if self.digests and self.manner.data_digest:
                    one += digest(segment)
            self._stream += one
            self._put_bytes += len(one)
            self._ends.append(self._put_bytes)
            start = end

    def _pdus_of(self, sent: Sent) -> bytes:
        step = sent.step
        first = 0x40 if sent.urgent else 0
        if isinstance(step, Ping):
            sent.payload = bytes((sent.tag & 0xFF,)) * step.size
            fields: dict[str, Any] = {"flags": 0x80, "target_transfer_tag": RESERVED_TAG}
            return self._request(Opcode.NOP_OUT, sent, sent.payload, opcode=first | Opcode.NOP_OUT, **fields)
        if isinstance(step, Manage):
            about = sent.about
            fields = {"function": 0x80 | step.function, "referenced_task_tag": RESERVED_TAG}
            if about is not None:
                fields |= {"referenced_task_tag": about.tag, "ref_cmd_sn": about.cmd_sn}
            opcode = first | Opcode.TASK_MANAGEMENT_REQUEST
            return self._request(Opcode.TASK_MANAGEMENT_REQUEST, sent, b"", opcode=opcode, **fields)
        if isinstance(step, Ask):
            cdb, expected = ASKS[step.what]
            fields = {"flags": 0x81 | (0x40 if expected else 0), "cdb": cdb, "expected_data_transfer_length": expected}
            return self._request(Opcode.SCSI_COMMAND, sent, b"", opcode=first | Opcode.SCSI_COMMAND, **fields)
        return self._transfer(sent, step, first)

    def _transfer(self, sent: Sent, step: Transfer, first: int) -> bytes:
        length = step.blocks * BLOCK_BYTES
        expected = max(0, length + step.surplus_bytes)
        if step.long:
            code = 0x8A if step.write else 0x88
            cdb = bytes((code, 8 * step.fua)) + step.block.to_bytes(8) + step.blocks.to_bytes(4) + bytes(2)
        else:
            code = 0x2A if step.write else 0x28
            cdb = bytes((code, 8 * step.fua)) + step.block.to_bytes(4) + b"\0" + step.blocks.to_bytes(2) + bytes(7)
        fields: dict[str, Any] = {
            "opcode": first | Opcode.SCSI_COMMAND,
            "cdb": cdb,
            "expected_data_transfer_length": expected,
        }
        if not step.write:
            return self._request(Opcode.SCSI_COMMAND, sent, b"", flags=0xC0 | step.attribute, **fields)
        sent.payload = payload(sent, step, expected)
        manner = self.manner
        first_burst = min(manner.first_burst, manner.max_burst, expected)
        immediate = min(step.immediate_bytes, first_burst) if manner.immediate_data else 0
        unsolicited = step.unsolicited and not manner.initial_r2t and immediate < first_burst
        flags = 0x20 | step.attribute | (0 if unsolicited else 0x80)
        out = self._request(Opcode.SCSI_COMMAND, sent, sent.payload[:immediate], flags=flags, **fields)
        if unsolicited:
            out += self._data_out(sent, RESERVED_TAG, immediate, first_burst)
        sent.asked = immediate < length and not (unsolicited and first_burst >= length)
        return out

    def _data_out(self, sent: Sent, transfer_tag: int, begin: int, end: int) -> bytes:
        out, data_sn, offset = b"", 0, begin
        while True:
            size = min(self.manner.out_segment, end - offset)
            final = offset + size == end
            fields = {
                "flags": 0x80 * final,
                "initiator_task_tag": sent.tag,
                "target_transfer_tag": transfer_tag,
                "data_sn": data_sn,
                "buffer_offset": offset,
            }
            out += pdu(Opcode.DATA_OUT, sent.payload[offset : offset + size], **fields)
            offset, data_sn = offset + size, data_sn + 1
            if final:
                return out

    def _request(self, opcode: Opcode, sent: Sent, data: bytes, /, **fields: Any) -> bytes:
        values = {"cmd_sn": sent.cmd_sn, "initiator_task_tag": sent.tag, "exp_stat_sn": self.exp_stat_sn}
        return pdu(opcode, data, **values | fields)

    @property
    def has_to_say(self) -> bool:
        return bool(self._stream or self._waiting or self._held)

    def next_pdu_bytes(self) -> int:
        """How much is left of the PDU that the stream is at: a script may go PDU by PDU."""
        return self._ends[0] - self._pushed_bytes if self._ends else 0

    def push(self, size: int, now: int) -> int:
        """Write up to ``size`` bytes to the socket; give how many it took."""
        if self.cut or not self._stream:
            return 0
        try:
            count = self.sock.send(self._stream[:size])
        except BlockingIOError:
            return 0
        except OSError:
            raise AssertionError("the target has closed the connection") from None
        del self._stream[:count]
        self._pushed_bytes += count
        while self._ends and self._ends[0] <= self._pushed_bytes:
            self._ends.popleft()
        while self._starts and self._starts[0][0] < self._pushed_bytes:
            self._starts.popleft()[1].sent_at = now
        return count

    # What it hears

    def listen(self, now: int) -> bool:
        """Read what has come; give whether anything has."""
        if not self.reads or self.cut:
            return False
        came = False
        while True:
            try:
                piece = self.sock.recv(1 << 18)
            except BlockingIOError:
                break
            assert piece, "the target has closed the connection"
            self.output += piece
            came = True
        if came:
            for opcode, fields, data in self._take_pdus():
                self._heard(opcode, fields, data, now)
            self._release()
        return came

    def _take_pdus(self) -> list[tuple[Opcode, Any, bytes]]:
        pdus: list[tuple[Opcode, Any, bytes]] = []
        stream = self.output
        header_digest = 4 * (self.digests and self.manner.header_digest)
        while len(stream) - self._parsed_bytes >= BHS_BYTES:
            start = self._parsed_bytes
            opcode = Opcode(stream[start] & 0x3F)
            packing, names = FAST[opcode]
            fields = SimpleNamespace(**dict(zip(names, packing.unpack_from(stream, start), strict=True)))
            size = fields.lengths
            begin = start + BHS_BYTES + header_digest
            padded = begin + (size + 3 & ~3)
            end = padded + 4 * bool(self.digests and self.manner.data_digest and size)
            if len(stream) < end:
                break
            if header_digest:
                assert stream[begin - 4 : begin] == digest(bytes(stream[start : start + BHS_BYTES]))
            if end > padded:
                assert stream[padded:end] == digest(bytes(stream[begin:padded]))
            assert not any(stream[begin + size : padded])
            pdus.append((opcode, fields, bytes(stream[begin : begin + size])))
            self._parsed_bytes = end
        return pdus

    def _heard(self, opcode: Opcode, fields: Any, data: bytes, now: int) -> None:
        last = opcode == Opcode.DATA_IN and fields.flags & 1
        if opcode in _WITH_STATUS or last:
            assert fields.stat_sn == self.exp_stat_sn, "StatSN counts what is sent, in its order"
            self.exp_stat_sn = self.exp_stat_sn + 1 & MASK
        elif opcode == Opcode.R2T:
            assert fields.stat_sn == self.exp_stat_sn
        self._take_window(fields)
        sent = self.sent.get(fields.initiator_task_tag)
        if opcode == Opcode.REJECT:
            sent = self.sent[int.from_bytes(data[16:20])]
            assert sent.urgent, "only what the window does not bound is turned away"
            sent.rejected = True
            sent.answered_at = now
            return
        assert sent is not None, (opcode, fields)
        assert not sent.is_answered, f"{sent} is answered twice"
        assert sent.dead_at == FOREVER, f"{sent} was ended, and its end told"
        assert sent.sent_at < FOREVER
        if opcode == Opcode.R2T:
            self._answer_r2t(sent, fields)
        elif opcode == Opcode.DATA_IN:
            self._take_data(sent, fields, data, now)
        else:
            sent.answered_at = now
            if opcode == Opcode.NOP_IN:
                assert data == sent.payload[: self.manner.segment]
                sent.status = 0
            elif opcode == Opcode.TASK_MANAGEMENT_RESPONSE:
                sent.response = fields.response
                sent.status = 0
            else:
                assert opcode == Opcode.SCSI_RESPONSE
                sent.status = fields.status
                sent.sense = data[2:]
                sent.residual = fields.flags & 6, fields.residual_count

    def _take_window(self, fields: Any) -> None:
        exp, most = fields.exp_cmd_sn, fields.max_cmd_sn
        assert (exp - self.exp_cmd_sn) & MASK < 1 << 31, "ExpCmdSN never moves back"
        assert (most - self.max_cmd_sn) & MASK < 1 << 31, "MaxCmdSN never moves back"
        assert (self.cmd_sn - exp) & MASK < 1 << 31, "nothing is acknowledged that was not said"
        assert (most - exp + 1) & MASK <= QUEUE_DEPTH
        self.exp_cmd_sn, self.max_cmd_sn = exp, most

    def _answer_r2t(self, sent: Sent, fields: Any) -> None:
        assert isinstance(sent.step, Transfer)
        assert sent.step.write
        begin, size = fields.buffer_offset, fields.desired_data_transfer_length
        assert 0 < size <= self.manner.max_burst
        assert begin + size <= len(sent.payload)
        self._put(self._data_out(sent, fields.target_transfer_tag, begin, begin + size))

    def _take_data(self, sent: Sent, fields: Any, data: bytes, now: int) -> None:
        assert fields.data_sn == sent.segments
        assert fields.buffer_offset == len(sent.data)
        assert 0 < len(data) <= self.manner.segment
        sent.segments += 1
        sent.data += data
        ends_burst = len(sent.data) % self.manner.max_burst == 0
        assert bool(fields.flags & 0x80) == bool(fields.flags & 1 or ends_burst)
        if fields.flags & 1:
            sent.answered_at = now
            sent.status = fields.status
            sent.residual = fields.flags & 6, fields.residual_count


def digest(data: bytes) -> bytes:
    """By the library; tests.iscsi_wire has the algorithm itself."""
    return crc32c(data).to_bytes(4, "little")


def payload(sent: Sent, step: Transfer, size: int) -> bytes:
    """What a write writes: each block says which write it is of, and which block it is."""
    who = (sent.host.number + 1 << 32 | sent.tag).to_bytes(8)
    blocks = -(-size // BLOCK_BYTES)
    return b"".join((who + (step.block + n).to_bytes(8)) * (BLOCK_BYTES // 16) for n in range(blocks))[:size]

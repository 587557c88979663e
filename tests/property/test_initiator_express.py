"""The express road of READ answers gives what the usual path gives, whatever comes and however it is split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.iscsi.codes import Opcode
from initiator.engine.express import Express
from initiator.engine.requests import Command, ConnectionFailed, Event, Ping, Request
from tests.unit.initiator.target_script import Script, logged_in, pdu

READS = 6
READ_BYTES = 516
GUARD = b"\xa5" * 32

Pdus = list[dict[str, Any]]
"""What differs of each PDU from the right answer to a READ."""


class Reader:
    """An engine with READs, a ping and a command without data under way."""

    def __init__(self, *, express: bool) -> None:
        self.script: Script = logged_in(staging_bytes=8192)
        if not express:
            self.script.engine._receiver._express = None
        self.rooms = [bytearray(GUARD + bytes(READ_BYTES) + GUARD) for _ in range(READS)]
        windows = [memoryview(room)[len(GUARD) : -len(GUARD)] for room in self.rooms]
        self.requests: list[Request] = [Command(0, b"\x28", data_in=window) for window in windows]
        self.requests += [Command(0, bytes(6)), Ping(b"")]
        for request in self.requests:
            self.script.engine.send(request)
        self.script.sent()

    def stream(self, answers: Pdus) -> bytes:
        """Give what the target says, right but for what the answers say of it."""
        made = []
        for number, changes in enumerate(answers):
            tag = self.requests[changes.get("who", number) % len(self.requests)].tag
            data = bytes((number,)) * changes.get("bytes", READ_BYTES)
            fields: dict[str, Any] = {"flags": 0x81, "initiator_task_tag": tag, "target_transfer_tag": 0xFFFFFFFF}
            fields |= self.script.numbers()
            fields |= {name: value for name, value in changes.items() if name not in ("who", "bytes")}
            made.append(pdu(Opcode.DATA_IN, data, **fields))
        return b"".join(made)

    def told(self, answers: Pdus, cuts: list[int]) -> tuple[Any, ...]:
        stream = self.stream(answers)
        places = sorted(cut % (len(stream) + 1) for cut in cuts)
        events: list[Event] = []
        for start, end in zip([0, *places], [*places, len(stream)], strict=True):
            events += self.script.engine.feed(stream[start:end])
        engine = self.script.engine
        numbers = (engine.session.exp_cmd_sn, engine.session.max_cmd_sn, engine._output.exp_stat_sn)
        return [_said(event) for event in events], self.rooms, numbers, list(engine.outstanding)


def _said(event: Event) -> tuple[Any, ...]:
    if isinstance(event, ConnectionFailed):
        return type(event.error).__name__, str(event.error)
    if isinstance(event, Command):
        return event.tag, event.status, event.residual, event.received, event.data_sn, event.done, event.error
    return (type(event).__name__,)


changes = st.fixed_dictionaries(
    {},
    optional={
        "who": st.integers(0, READS + 1),
        "bytes": st.sampled_from((0, 4, 512, READ_BYTES, READ_BYTES + 4)),
        "flags": st.sampled_from((0x00, 0x01, 0x80, 0x81, 0x83, 0x85, 0x87, 0xC1)),
        "status": st.sampled_from((0, 2, 8)),
        "stat_sn": st.sampled_from((99, 101, 102, 0xFFFFFFFF)),
        "exp_cmd_sn": st.sampled_from((1, 5, 9, 10, 500)),
        "max_cmd_sn": st.sampled_from((0, 64, 65, 1000)),
        "data_sn": st.sampled_from((0, 1)),
        "buffer_offset": st.sampled_from((0, 4, READ_BYTES)),
        "residual_count": st.sampled_from((0, 4)),
        "initiator_task_tag": st.sampled_from((0, 2, 0xFFFFFFFF)),
    },
)
usual: st.SearchStrategy[dict[str, Any]] = st.just({})


@given(st.lists(usual | usual | changes, max_size=READS + 3), st.lists(st.integers(0, 1 << 16), max_size=4))
def test_it_is_as_if_it_were_not_there(answers: Pdus, cuts: list[int]) -> None:
    assert Reader(express=True).told(answers, cuts) == Reader(express=False).told(answers, cuts)


def test_the_usual_answers_go_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = Express.take

    def counted(self: Express, staging: bytearray, view: memoryview, start: int, end: int) -> int:
        rest = take(self, staging, view, start, end)
        taken.append(rest - start)
        return rest

    monkeypatch.setattr(Express, "take", counted)
    reader = Reader(express=True)
    stream = reader.stream([{}] * READS)
    assert len(reader.script.engine.feed(stream)) == READS
    assert sum(taken) == len(stream)

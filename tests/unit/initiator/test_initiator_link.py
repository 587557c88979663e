from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from csvd.iscsi.codes import Opcode
from initiator.engine.requests import Command, Event
from initiator.link import Link
from tests.unit.initiator.conftest import Run
from tests.unit.initiator.target_script import Script, logged_in, parse_pdus, pdu


class Owner:
    """What a link tells, and a Deferred for the moment when it does."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.told: Deferred[None] = Deferred()
        self.lost = ""

    def link_events(self, events: list[Event]) -> None:
        self.events += events
        if events and not self.told.called:
            self.told.callback(None)

    def link_lost(self, reason: str) -> None:
        self.lost = reason
        if not self.told.called:
            self.told.callback(None)


def linked(script: Script, reactor: Any) -> tuple[Link, Owner, socket.socket]:
    """Give a link over a socket pair, and the target's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    owner = Owner()
    link = Link(ours, script.engine, owner, reactor=reactor)
    link.start()
    return link, owner, theirs


def test_data_in_goes_from_the_socket_to_the_buffer(run: Run) -> None:
    async def work(reactor: Any) -> None:
        script = logged_in()
        link, owner, theirs = linked(script, reactor)
        buffer = bytearray(200000)
        command = script.command(data_in=buffer)
        link.flush()
        data = os.urandom(200000)
        (request,) = parse_pdus(theirs.recv(48))
        assert request.initiator_task_tag == command.tag
        stream = script.data_in(command, 0, data, 0, flags=0x81)
        reactor.callInThread(theirs.sendall, stream)
        await owner.told
        assert owner.events == [command]
        assert buffer == data
        assert link.bytes_received == len(stream)
        link.close()
        theirs.close()

    run(work)


def test_what_the_socket_does_not_take_goes_out_when_it_does(run: Run) -> None:
    async def work(reactor: Any) -> None:
        keys = {
            "InitialR2T": "Yes",
            "ImmediateData": "No",
            "MaxBurstLength": "1048576",
            "MaxRecvDataSegmentLength": "65536",
        }
        script = logged_in(keys)
        link, owner, theirs = linked(script, reactor)
        data = os.urandom((1 << 20) - 3)
        command = script.command(data_out=data)
        script.sent()
        script.say(script.r2t(command, 0, 0, len(data)))
        link.wake()
        link.wake()

        def receive() -> bytes:
            stream = b""
            while len(stream) < len(data) + 16 * 48 + 3:
                stream += theirs.recv(10000)
            return stream

        received: Deferred[bytes] = Deferred()
        reactor.callInThread(lambda: reactor.callFromThread(received.callback, receive()))
        pdus = parse_pdus(await received)
        assert b"".join(sent.data for sent in pdus) == data
        assert {sent.opcode for sent in pdus} == {Opcode.DATA_OUT}
        theirs.sendall(script.response(command))
        await owner.told
        assert owner.events == [command]
        link.close()
        theirs.close()

    run(work)


def test_a_target_that_hangs_up_is_told(run: Run) -> None:
    async def work(reactor: Any) -> None:
        script = logged_in()
        _, owner, theirs = linked(script, reactor)
        theirs.close()
        await owner.told
        assert "closed the connection" in owner.lost

    run(work)


def test_nothing_is_told_after_the_link_was_closed(run: Run) -> None:
    async def work(reactor: Any) -> None:
        script = logged_in()
        link, owner, theirs = linked(script, reactor)
        script.command()
        link.wake()
        link.close()
        link.close()
        theirs.close()
        link.wake()
        link.connectionLost(Failure(ConnectionLost()))  # type: ignore[no-untyped-call]
        assert link.fileno() == -1
        assert owner.lost == ""
        assert not [call for call in reactor.getDelayedCalls() if call.active()]

    run(work)


def test_requests_made_by_an_answer_go_out_with_it(run: Run) -> None:
    async def work(reactor: Any) -> None:
        script = logged_in()
        link, owner, theirs = linked(script, reactor)

        def ask_again(_: None) -> None:
            script.engine.send(Command(0, b"\x35"))
            link.wake()

        owner.told.addCallback(ask_again)
        command = script.command()
        link.flush()
        theirs.recv(48)
        theirs.sendall(
            script.response(command)
            + pdu(Opcode.NOP_IN, **script.numbers(status=False), initiator_task_tag=0xFFFFFFFF, target_transfer_tag=5)
        )
        await owner.told
        sent: Deferred[bytes] = Deferred()
        reactor.callInThread(lambda: reactor.callFromThread(sent.callback, theirs.recv(4096)))
        answered = parse_pdus(await sent)
        assert [one.opcode for one in answered] == [Opcode.NOP_OUT, Opcode.SCSI_COMMAND], "in one piece"
        link.close()
        theirs.close()

    run(work)


def test_what_is_to_be_sent_yet_is_no_longer_the_caller_s_memory_when_it_was_kept(run: Run) -> None:
    async def work(reactor: Any) -> None:
        script = logged_in()
        link, _, theirs = linked(script, reactor)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        data = bytearray(b"\x11" * 8192)
        commands = [script.command(cdb=b"\x2a" + bytes(9), data_out=data) for _ in range(60)]
        link.flush()  # the socket takes a part
        link.keep_unsent()
        data[:] = b"\xee" * len(data)
        theirs.setblocking(True)
        reading = deferToThreadPool(reactor, reactor.getThreadPool(), read_all, theirs, 60 * (48 + 8192))
        stream = await reading
        assert len(commands) == 60
        assert b"\xee" not in {stream[at : at + 1] for at in range(48 + 4096, len(stream), 48 + 8192)}

    run(work)


def read_all(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data))
    return data

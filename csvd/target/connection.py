"""One TCP connection of an initiator, on the reactor (DESIGN section 5).

Twisted's own transport joins and copies what it sends. This one is a ``FileDescriptor`` that receives into the engine's
buffers and sends the engine's buffers with one ``sendmsg`` for all that one ``recv`` brought.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger

from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.digests import CRC32C
from csvd.iscsi.events import EventKind
from csvd.iscsi.session import Task
from csvd.target.express import FULL_BYTES
from csvd.target.file_segments import LOOK_S, FileSegments
from csvd.target.outgoing import Outgoing
from csvd.target.statistics import ConnectionCounter

if TYPE_CHECKING:
    from csvd.target.executor import Executor
    from csvd.target.express import Express

TURN_BYTES: Final = 4 * 2**20
"""What a connection reads from the page cache in one turn of the loop: a few milliseconds' worth."""
HELD_BYTES: Final = 8 * 2**20
"""What a connection may hold in answers that are being read or wait to be sent. Above it no task is begun: the CmdSN
window closes, and the initiator waits. One task may exceed it alone. While a *disk* is slow the socket is still read,
for NOP-Out and task management must be heard; when the *peer* does not read, it is not."""
READS_A_TURN: Final = 4
"""``recv`` calls in one turn of the loop, so that no connection keeps it for long."""
RECEIVE_BYTES: Final = 128 * 1024
"""What is received in one turn before others have theirs: a large WRITE must not make a small READ wait for long."""
MORE_BYTES: Final = 32 * 1024
"""A ``recv`` that brought less has emptied the socket; to look again would cost a system call for nothing."""
NOTHING_YET: Final = 1
"""As a count of bytes: less than `MORE_BYTES`, and not the end."""
TURN_NS: Final = 4_000_000
"""After this time nothing more is begun in a turn. Small commands of which a peer sends thousands come to it before
they come to the other bounds."""
LOG_LINES: Final = 16
"""Lines that a connection may put into the log between two ticks."""
LINGER_S: Final = 5.0
"""How long a peer may take to read the last bytes of a connection that is being closed."""


class ServerConnection(Outgoing):
    """The adapter of one :class:`TargetConnection`."""

    log = Logger()
    takes_express = True

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        engine: TargetConnection,
        executor_of: Callable[[TargetConnection], Executor],
        on_lost: Callable[[ServerConnection], None],
    ) -> None:
        super().__init__(reactor, sock, engine)
        self.held_bytes = 0
        self.accepted_s = reactor.seconds()
        self.counter = ConnectionCounter()
        self.tell: Callable[[str, str, str], None] = _tell_nobody
        """Told what goes into the log, too: see csvd.target.service.Tell."""
        self._executor_of = executor_of
        self._executor: Executor | None = None
        self._express: Express | None = None
        self._on_lost = on_lost
        self._tasks: deque[Task] = deque()
        self._closing_since_s: float | None = None
        self._in_turn = False
        self._turn_is_due = False
        self._turn_ends_ns = 0
        self._draining = False
        self._askers: list[Callable[[], None]] = []
        """Who waits to hear that the peer is there."""
        self._log_lines, self._log_kept = LOG_LINES, 0
        engine.wake = self._woken
        engine.express = self._take_express
        self._loop = loop_of(reactor)
        self._is_reading = False
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        return f"iscsi {self.engine.peer}"

    # Input

    def doRead(self) -> Any:  # noqa: N802 - Twisted's name
        """Receive what is there, take it in one pass, execute it, and send all answers at once."""
        self._begin_turn()
        received_bytes = 0
        try:
            for _ in range(READS_A_TURN):
                express = self._express
                if (
                    express is not None
                    and express.receiver.is_empty
                    and self._is_idle
                    and not (express.data_digest and self.engine.in_a_pdu)
                ):
                    count = self._express_turn(express)
                else:
                    count = self._usual_turn()
                if not count:
                    return CONNECTION_DONE
                received_bytes += count
                if count < MORE_BYTES or received_bytes > RECEIVE_BYTES or self.disconnected or self._is_over():
                    return None
                if not self._wants_input():
                    return None
        finally:
            self._in_turn = False
        return None

    def _begin_turn(self) -> None:
        self._in_turn = True
        self.turn_bytes = 0
        began_ns = self.counter.turn_ns = perf_counter_ns()
        self._turn_ends_ns = began_ns + TURN_NS
        # Whatever became of the turn before, of this connection or of another.
        self.scratch.used = 0

    @property
    def _is_idle(self) -> bool:
        """Whether nothing waits that was here before: a task to execute, or an answer that came late."""
        return not (self._tasks or self.engine.ready or self.engine.output)

    def _usual_turn(self) -> int:
        """Receive once, for the engine; give how much came, 0 at the end."""
        engine = self.engine
        try:
            count = self._socket.recvmsg_into(engine.receive_buffers())[0]
        except (BlockingIOError, InterruptedError):
            return NOTHING_YET
        except OSError:
            return 0
        if count:
            engine.received(count, self.reactor.seconds())
            self._run()
        return count

    def _express_turn(self, express: Express) -> int:
        """The same where nothing waits that was received before: most turns are all READs and WRITEs that are answered
        at once, and the engine need not know of them."""
        receiver, scratch, engine = express.receiver, self.scratch, self.engine
        try:
            count = self._socket.recv_into(receiver.renew())
        except (BlockingIOError, InterruptedError):
            return NOTHING_YET
        except OSError:
            return 0
        if not count:
            return 0
        receiver.end = count
        engine.is_heard = True
        express.disk_waits = False
        if express.run() and scratch.used > FULL_BYTES:
            self._run_express(express)
        if receiver.start == count and not engine.output:
            self._send_scratch()
            self.counter.end_run()
            if self._unsent and not self._wants_input():
                self.stopReading()
            return count
        if engine.paused:
            self._run()
            return NOTHING_YET
        if scratch.used:
            engine.output.append(scratch.view[: scratch.used])
        engine.received(0, self.reactor.seconds())
        self._run()
        return count

    def _run_express(self, express: Express) -> None:
        """Send, take and answer commands, as many as there is time for; for the rest the engine is paused."""
        scratch = self.scratch
        while True:
            self._send_scratch()
            if self._is_over():
                self.engine.paused = not express.receiver.is_empty
                return
            if self.disconnected or not express.run() or scratch.used <= FULL_BYTES:
                return

    def _take_express(self) -> bool:
        """Take the commands that can be answered at once, between others; see `TargetConnection.express`."""
        express, scratch = self._express, self.scratch
        if express is None or not self._in_turn:
            return False
        # Nothing may overtake a task that is to be executed: it may be an ordered one, or change what holds for others.
        if self.engine.ready or self._tasks:
            self._execute()
            if self.disconnected or self._tasks:
                return bool(self.disconnected)
        if self._is_over():
            return False
        if scratch.used > FULL_BYTES:
            self._send()
            if self.disconnected:
                return True
        first = scratch.used
        if not express.run():
            return False
        self.turn_bytes += scratch.used - first
        self.engine.output.append(scratch.view[first : scratch.used])
        return True

    def _run(self) -> None:
        """Execute what is ready, as far as there is room for the answers; send; see whether to read on."""
        engine = self.engine
        if self._executor is None and engine.is_normal:
            self._begin(engine)
        self._execute()
        self._send()
        if self.counter.run_count:
            self.counter.end_run()
        if engine.events:
            self._log_events()
        if self.disconnected:
            return
        if self._wants_input():
            self.startReading()
        else:
            self.stopReading()
        if engine.closing and not self._unsent:
            self.abort()
        elif self._unsent_bytes <= HELD_BYTES and (engine.paused or (self._tasks and self.turn_bytes > TURN_BYTES)):
            # Others have their turn first.
            self._ask_for_turn()

    def _execute(self) -> None:
        """Execute what is ready, as far as there is room for the answers."""
        engine = self.engine
        if engine.ready:
            self._tasks.extend(engine.ready)
            engine.ready.clear()
        while self._tasks and self._may_execute():
            task = self._tasks.popleft()
            if task.aborted:
                continue
            assert self._executor is not None
            self._executor.execute(self, task)
            if engine.output and self._outgoing_is_large():
                self._send()
            if engine.ready:
                self._tasks.extend(engine.ready)
                engine.ready.clear()

    def _begin(self, engine: TargetConnection) -> None:
        """The session is there: from now on there are tasks to execute."""
        self._executor = self._executor_of(engine)
        if engine.is_plain:
            self.segments = FileSegments(self.reactor, self._socket, self.proceed, self.abort)
        if self.takes_express and engine.parameters.header_digest != CRC32C:
            self._express = self._executor.express(self)

    def _may_execute(self) -> bool:
        """Whether there is room for an answer, and time in this turn to make one."""
        return self._unsent_bytes + self.held_bytes <= HELD_BYTES and self.turn_bytes <= TURN_BYTES

    def _is_over(self) -> bool:
        """Whether nothing more is to be begun in this turn."""
        return not self._may_execute() or perf_counter_ns() > self._turn_ends_ns

    def _log_events(self) -> None:
        """Log what the engine tells, but not as fast as a peer can make it tell."""
        events = self.engine.events
        session = self.engine.session
        for event in events[: self._log_lines]:
            self.log.info("{peer}: {event}", peer=self.engine.peer, event=str(event), kind=event.kind)
            who = session.initiator_name if session is not None else self.engine.peer
            self.tell(event.kind.value, f"{self.engine.peer}: {event.text}", who)
        self._log_kept += max(0, len(events) - self._log_lines)
        self._log_lines = max(0, self._log_lines - len(events))
        events.clear()

    def read_buffer(self, length_bytes: int) -> memoryview:
        """A buffer to read into and to answer from at once."""
        return self.reads.take(length_bytes) if self._in_turn else memoryview(bytearray(length_bytes))

    def _wants_input(self) -> bool:
        engine = self.engine
        return not (self._draining or engine.closing or engine.paused) and self._unsent_bytes <= HELD_BYTES

    def proceed(self) -> None:
        """Go on after an answer that came later than its turn; answers of the same turn are sent together."""
        if not self._in_turn and not self.disconnected:
            self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        """Have one turn soon, however often it is asked for: more would be more than this connection's share."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self.reactor.callLater(0, self._late_turn)

    def _late_turn(self) -> None:
        self._turn_is_due = False
        if self.disconnected:
            return
        self._begin_turn()
        try:
            if self.engine.paused:
                self._resume()
            self._run()
        finally:
            self._in_turn = False

    def _resume(self) -> None:
        """Take what was left in the receive buffer."""
        engine, express, scratch = self.engine, self._express, self.scratch
        engine.paused = False
        if express is not None and engine.receiver.at_header and self._is_idle and engine.is_plain:
            express.disk_waits = False
            self._run_express(express)
            if scratch.used:
                engine.output.append(scratch.view[: scratch.used])
        if not engine.paused and not self.disconnected:
            engine.received(0, self.reactor.seconds())

    def _woken(self) -> None:
        self.proceed()

    def tick(self, now_s: float) -> None:
        """Let time pass for the engine, and for a peer that does not read the end of its connection."""
        if not self._wants_input():
            self.engine.not_listening(now_s)
        self.engine.tick(now_s)
        dead_s = self.engine.keepalive.dead_s
        if self._unsent and now_s - self._sent_s > dead_s:
            self.engine.tell(EventKind.CONNECTION_FAILURE, f"it has read nothing for {dead_s:.0f} s")
            self.abort()
            return
        if self._unsent and self.segments is not None:
            self.segments.read_out(self._unsent)
        if self._log_kept:
            self.log.warn("{peer}: {count} more events, not shown", peer=self.engine.peer, count=self._log_kept)
        self._log_lines, self._log_kept = LOG_LINES, 0
        self._run()
        if self.engine.closing and not self.disconnected:
            if self._closing_since_s is None:
                self._closing_since_s = now_s
            elif now_s - self._closing_since_s > LINGER_S:
                self.abort()

    def when_there(self, there: Callable[[], None]) -> None:
        """Call back when the peer's host has acknowledged what it is sent now: one that has given the connection up
        does not. What asks is a NOP-In, which TCP acknowledges also for initiators that do not answer it."""
        if self.disconnected:
            return
        self._askers.append(there)
        if len(self._askers) == 1:
            self.engine.ask()
            self.proceed()
            self.reactor.callLater(LOOK_S, self._look_for_peer)

    def _look_for_peer(self) -> None:
        if self.disconnected:
            self._askers.clear()
        elif self._unsent or self.engine.output or unacknowledged_bytes(self._socket):
            self.reactor.callLater(LOOK_S, self._look_for_peer)
        else:
            askers, self._askers = self._askers, []
            for there in askers:
                there()

    def drain(self) -> None:
        """Take nothing more in; what was taken is still answered."""
        self._draining = True
        self.stopReading()

    @property
    def drained(self) -> bool:
        """Whether nothing waits to be executed or to be sent."""
        return not self._tasks and not self._unsent and not self.engine.output

    def startReading(self) -> None:  # noqa: N802 - Twisted's name
        if not self._is_reading:
            self._is_reading = True
            if self._loop is not None:
                self._loop.add_reader(self._socket.fileno(), self._readable)
            else:
                super().startReading()

    def stopReading(self) -> None:  # noqa: N802 - Twisted's name
        if self._is_reading:
            self._is_reading = False
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            else:
                super().stopReading()

    def _readable(self) -> None:
        """What the reactor does for a selectable, without the context that it makes for messages of older code: that
        costs as much as a READ."""
        try:
            reason = self.doRead()
        except Exception:  # noqa: BLE001 - a fault of ours costs its connection, not the node
            self.log.failure("reading from {peer} failed", peer=self.engine.peer)
            reason = CONNECTION_LOST
        if reason is not None:
            self.connectionLost(reason)

    # Output

    def doWrite(self) -> Any:  # noqa: N802 - Twisted's name
        """The socket takes more: send it, and go on with what waited for room."""
        if self.segments is not None and self.segments.is_reading:
            self.stopWriting()
            return
        self._send_unsent()
        if not self._unsent and not self.disconnected:
            self._run()

    # End

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        """The connection is gone: its session ends, and its answers with it."""
        if self.disconnected:
            return
        super().connectionLost(reason)
        self._socket.close()
        self.engine.lost()
        self.engine.forget_input()
        self._log_events()
        if self.segments is not None:
            self.segments.lost()
        self._tasks.clear()
        self._unsent.clear()
        self._unsent_bytes = 0
        self._on_lost(self)


def loop_of(reactor: Any) -> asyncio.AbstractEventLoop | None:
    """The event loop that a reactor runs on; None for one of another kind."""
    return asyncio.get_running_loop() if isinstance(reactor, AsyncioSelectorReactor) else None


def unacknowledged_bytes(sock: socket.socket) -> int:
    """How many bytes the peer's host has not acknowledged; none where nobody can tell."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _tell_nobody(_kind: str, _text: str, _subject: str) -> None:
    return None

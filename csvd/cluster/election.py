"""Raft by pysyncobj, on the node's own loop, links and journal. The only module that imports pysyncobj.

Each Election has an instance of the module `pysyncobj.syncobj` of its own, in which the collaborators that pysyncobj
makes for itself are replaced by ours (csvd.cluster.raft_adapters): no sockets, pipes, threads, files or pickles of its
own, and the clock and the randomness that it is given. Private names of pysyncobj 0.3.17 that are relied upon are
pinned by tests/unit/cluster/test_pysyncobj_names.py.

What is done here around pysyncobj's faults (DESIGN section 7): nothing is sent before the journal is durable; an answer
to an earlier term is dropped; a vote counts once; entries that are here already are taken out of a message, and only
entries that contradict the log cut something off it, never what was applied; a snapshot neither commits nor cuts off
what is in the log; a leader without its majority steps down at once. An error inside stops this node's part in Raft for
good, rather than to go on with a state that may be wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import ModuleType
from typing import Any, Final, Protocol

import msgspec
from pysyncobj.config import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from csvd.cluster.durability import DurabilityGate, RunBlocking
from csvd.cluster.errors import ClusterError, OutcomeUnknown, PeerMessageError
from csvd.cluster.journal import Journal
from csvd.cluster.raft_adapters import NoPipe, NoPoller, RaftLog, RaftLogger, RaftTransport, Snapshots
from csvd.cluster.raft_messages import (
    AppendEntries,
    InstallSnapshot,
    NextIndex,
    RaftMessage,
    ResponseVote,
    decode,
    encode,
    from_pysyncobj,
)
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.timeouts import Timeouts

MAXIMUM_COMMAND_BYTES: Final = 16 * 1024
MAXIMUM_LOG_BYTES: Final = 2 * 1024 * 1024
MAXIMUM_LOG_ENTRIES: Final = 1000
MAXIMUM_RAFT_MESSAGE_BYTES: Final = 2 * MAXIMUM_LOG_BYTES

_CANDIDATE: Final = 1  # pysyncobj._RAFT_STATE.CANDIDATE
_LEADER: Final = 2  # pysyncobj._RAFT_STATE.LEADER
_REGULAR: Final = 0  # pysyncobj._COMMAND_TYPE.REGULAR
_DAY_S: Final = 86_400


class NotLeader(ClusterError):
    """This node does not lead: the command was not taken into the log, and will not be carried out by this try."""


class StateMachine(Protocol):
    """What is replicated."""

    def apply(self, command: bytes) -> object:
        """Carry out a committed command; the same on every node; never raises."""

    def take(self) -> bytes:
        """The whole state."""

    def check(self, state: bytes) -> None:
        """Raise a CsvdError where the bytes are not a state."""

    def restore(self, state: bytes) -> None:
        """Become that state."""


class Election:
    """One node's part in Raft.

    Args:
        node: the name of this node.
        members: the names of all nodes, with this one.
        journal: the node's journal, opened.
        machine: what is replicated.
        link_to: how a message is sent to a peer now, or None where there is no link to it.
        changed: called after the leader, the term or this node's role has changed.
        failed: called once when this node can not take part any more.
        timeouts: the times.
        clock: the node's loop.
        random: for the times of elections.
        run_blocking: where the journal is written.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        node: str,
        members: Sequence[str],
        journal: Journal,
        machine: StateMachine,
        link_to: Callable[[str], Callable[[bytes], None] | None],
        changed: Callable[[], None],
        failed: Callable[[ClusterError], None],
        timeouts: Timeouts,
        clock: Clock,
        random: Random,
        run_blocking: RunBlocking,
    ) -> None:
        self.node = node
        self._journal = journal
        self._machine = machine
        self._link_to = link_to
        self._changed = changed
        self._on_failed = failed
        self._timeouts = timeouts
        self._clock = clock
        self._random = random
        self._nodes = {name: Node(name) for name in members if name != node}
        self._linked: set[str] = set()
        self._voters: tuple[int, set[str]] = (0, set())
        self._outstanding: Deferred[object] | None = None
        self._failure: ClusterError | None = None
        self._wake_call: DelayedCall | None = None
        self._ticked_at_s = clock.seconds()
        self._resent_at_s = 0.0
        self._may_hasten_again = False
        self._seen: tuple[object, ...] = ()
        self._gate = DurabilityGate(journal, run_blocking, self._fail)
        self._transport = RaftTransport(self._send)
        self._snapshots = Snapshots(journal, machine.take, machine.restore)
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock  # type: ignore[assignment]
        self._raft = self._make_raft()

    @property
    def is_leader(self) -> bool:
        """Whether this node believes that it leads; another may lead already in a later term."""
        return self._failure is None and bool(self._raft._isLeader())

    @property
    def is_established(self) -> bool:
        """Whether this node leads and has committed in its term: it has applied all that was committed before."""
        return self.is_leader and self._raft.raftLastApplied >= self._raft._SyncObj__noopIDx

    @property
    def leader(self) -> str | None:
        """The node that is known to lead: this one, or one that there is a link to."""
        leader = self._raft._getLeader()
        name = None if leader is None else str(leader.id)
        return name if name == self.node or name in self._linked else None

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._raft.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """The index up to which this node knows entries to be committed."""
        return int(self._raft.raftCommitIndex)

    @property
    def failure(self) -> ClusterError | None:
        """Why this node does not take part any more, or None."""
        return self._failure

    def start(self) -> None:
        """Begin to take part."""
        if self._nodes:
            self._postpone_election()
        else:
            self._raft._SyncObj__raftElectionDeadline = 0
        self._ticked_at_s = self._clock.seconds()
        self._tick()
        self._ticking.start(self._timeouts.tick_s, now=False)

    def stop(self) -> Deferred[None]:
        """Take no part any more; fires when the journal is not being written any more."""
        if self._ticking.running:
            self._ticking.stop()
        if self._wake_call is not None:
            self._wake_call.cancel()
            self._wake_call = None
        if self._failure is None:
            self._failure = ClusterError("this node is stopped")
        self._settle(OutcomeUnknown("this node is stopped"))
        return self._gate.close()

    def connected(self, peer: str) -> None:
        """There is a link to a peer."""
        if not self._linked and not self.is_leader:
            # It was alone: give a leader the time to say that it is there, before standing against it.
            self._postpone_election()
        self._linked.add(peer)
        self._guarded(self._transport.connected, self._nodes[peer])
        self.wake()

    def disconnected(self, peer: str) -> None:
        """There is no link to a peer any more."""
        was_leader = peer == self.leader
        self._linked.discard(peer)
        self._guarded(self._transport.disconnected, self._nodes[peer])
        if was_leader and not self.is_leader:
            self._hasten_election()
            self._may_hasten_again = True
        self.wake()

    def received(self, peer: str, data: bytes) -> None:
        """A message of Raft came from a peer.

        Raises:
            PeerMessageError: it is none, or one that no node sends; close the link.
        """
        message = decode(data)
        if self._failure is not None:
            return
        admitted = self._admit(peer, message)
        if admitted is None:
            return
        # Only entries that contradict the log take something from it (Raft, figure 2).
        self._raft_log.keeps_entries = isinstance(admitted, AppendEntries) and not admitted.entries
        self._guarded(self._transport.received, self._nodes[peer], admitted.to_pysyncobj())
        self._raft_log.keeps_entries = False
        if isinstance(admitted, NextIndex) and admitted.reset:
            self._resend_soon()
        self._gate.write()
        self.wake()

    def propose(self, command: bytes) -> Deferred[object]:
        """Have a command committed and applied; one at a time.

        Returns:
            Fires with what the state machine answered on this node; fails with NotLeader (this try does nothing) or
            OutcomeUnknown (leadership was lost meanwhile).
        """
        assert self._outstanding is None
        assert len(command) <= MAXIMUM_COMMAND_BYTES
        result: Deferred[object] = Deferred()
        if not self.is_leader:
            result.errback(NotLeader("this node does not lead"))
            return result
        self._outstanding = result

        def decided(answer: object, reason: int) -> None:
            if self._outstanding is not result:
                return
            self._outstanding = None
            # From the loop, so that what the caller does next is not done inside of pysyncobj.
            if reason == FAIL_REASON.SUCCESS:
                self._clock.callLater(0, result.callback, answer)
            else:
                # All other reasons that pysyncobj gives to a leader's own command mean that it is not in the log.
                self._clock.callLater(0, result.errback, NotLeader("this node does not lead any more"))

        self._guarded(self._raft._applyCommand, command, decided, _REGULAR)
        self.wake()
        return result

    def wake(self) -> None:
        """Tick as soon as the loop comes to it."""
        if self._wake_call is None and self._failure is None:
            self._wake_call = self._clock.callLater(0, self._woken)

    def _woken(self) -> None:
        self._wake_call = None
        self._tick()

    def _tick(self) -> None:
        """Let Raft see what time it is, and act."""
        now_s = self._clock.seconds()
        if now_s - self._ticked_at_s > self._timeouts.election_minimum_s / 2:
            # This process stood still: what the leader said meanwhile is still unread, so its silence means nothing.
            self._postpone_election()
        self._ticked_at_s = now_s
        if self._failure is not None:
            return
        if not self._nodes and not self._journal.is_durable:
            # Alone, this node is the majority: nothing may be committed before it is durable here.
            self._gate.pass_when_durable(self.wake)
            return
        if self._journal.log_bytes > MAXIMUM_LOG_BYTES:
            self._guarded(self._raft.forceLogCompaction)
        self._guarded(self._raft.doTick, 0.0)
        if self._may_hasten_again and self._raft._SyncObj__raftState == _CANDIDATE:
            # The votes may be split, for the others lost their leader in the same moment. Only once: on a slow disk
            # the votes of this very election may still be on their way.
            self._may_hasten_again = False
            self._hasten_election()
        self._gate.write()
        self._observe()

    def _observe(self) -> None:
        seen = (self.is_leader, self.is_established, self.leader, self.term)
        if seen != self._seen:
            self._seen = seen
            self._changed()

    def _postpone_election(self) -> None:
        timeouts = self._timeouts
        pause_s = self._random.uniform(timeouts.election_minimum_s, timeouts.election_maximum_s)
        self._raft._SyncObj__raftElectionDeadline = self._clock.seconds() + pause_s

    def _hasten_election(self) -> None:
        timeouts = self._timeouts
        pause_s = self._random.uniform(timeouts.leader_gone_minimum_s, timeouts.leader_gone_maximum_s)
        deadline_s = min(self._raft._SyncObj__raftElectionDeadline, self._clock.seconds() + pause_s)
        self._raft._SyncObj__raftElectionDeadline = deadline_s

    def _resend_soon(self) -> None:
        """A follower asked for earlier entries: send them with the next tick, not with the next heartbeat."""
        now_s = self._clock.seconds()
        if now_s - self._resent_at_s >= self._timeouts.tick_s:
            self._resent_at_s = now_s
            self._raft._SyncObj__newAppendEntriesTime = 0

    def _admit(self, peer: str, message: RaftMessage) -> RaftMessage | None:
        """The message as pysyncobj may see it, or None."""
        if isinstance(message, NextIndex):
            return self._admit_next_index(message)
        if isinstance(message, ResponseVote):
            if self._voters[0] != self.term:
                self._voters = (self.term, set())
            if message.term != self.term or peer in self._voters[1]:
                return None
            self._voters[1].add(peer)
        elif isinstance(message, AppendEntries):
            return self._without_known_entries(message)
        elif isinstance(message, InstallSnapshot):
            try:
                self._machine.check(message.snapshot.state)
            except ClusterError as error:
                raise PeerMessageError("it sent a snapshot that is none", why=str(error)) from error
        return message

    def _admit_next_index(self, message: NextIndex) -> NextIndex | None:
        if message.term != self.term:
            return None
        after_last = self._journal.entries[-1][1] + 1
        if message.success and message.next_index > after_last:
            raise PeerMessageError("it has more of the leader's log than the leader")
        return msgspec.structs.replace(message, next_index=max(2, min(message.next_index, after_last)))

    def _without_known_entries(self, message: AppendEntries) -> AppendEntries:
        """The message without the entries that are in the log already.

        Two logs that have an entry of the same index and term are the same up to it (Raft's log matching), so the last
        such entry can stand for all before it. The commit index is not beyond what the message speaks of, for the log
        may go on after that with entries that were never committed.
        """
        last_index = message.previous_index + len(message.entries)
        message = msgspec.structs.replace(message, commit_index=min(message.commit_index, last_index))
        log = self._journal.entries
        first = log[0][1]
        for known in range(len(message.entries), 0, -1):
            _, index, term = message.entries[known - 1]
            if 0 <= index - first < len(log) and log[index - first][2] == term:
                rest = message.entries[known:]
                return msgspec.structs.replace(message, previous_index=index, previous_term=term, entries=rest)
        return message

    def _send(self, peer: str, message: Mapping[str, Any]) -> bool:
        """pysyncobj sends a message: pass it to the link that is there now, when all before it is durable."""
        link = self._link_to(peer)
        raft_message = from_pysyncobj(message, self.term)
        if link is None or raft_message is None:
            return False
        data = encode(raft_message)
        if len(data) > MAXIMUM_RAFT_MESSAGE_BYTES:
            self._log.error("a message of {length} bytes is too long to be sent", length=len(data))
            return False
        self._gate.pass_when_durable(lambda: link(data))
        return True

    def _guarded(self, call: Callable[..., object], *arguments: object) -> None:
        """Call pysyncobj; whatever it raises ends this node's part."""
        try:
            call(*arguments)
        except ClusterError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - it becomes a named error, and the node stops
            self._log.failure("pysyncobj failed")
            self._fail(ClusterError("pysyncobj failed", why=repr(error)))

    def _fail(self, error: ClusterError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._log.critical("this node takes no part in the cluster any more: {error}", error=str(error))
        if self._ticking.running:
            self._ticking.stop()
        self._settle(OutcomeUnknown("this node failed", why=str(error)))
        self._on_failed(error)

    def _settle(self, error: ClusterError) -> None:
        outstanding, self._outstanding = self._outstanding, None
        if outstanding is not None:
            self._clock.callLater(0, outstanding.errback, error)

    def _state_changed(self, old: int, new: int) -> None:
        role = {_CANDIDATE: "stands for election", _LEADER: "leads"}.get(new, "follows")
        self._log.info("this node {role}; the last term was {term}", role=role, term=self.term)
        if old == _LEADER:
            self._settle(OutcomeUnknown("this node lost its leadership"))

    def _make_raft(self) -> Any:
        """This node's pysyncobj, with the collaborators that it is to use."""
        module = load_syncobj(f"pysyncobj._csvd_{id(self)}")
        self._raft_log = RaftLog(self._journal, self._snapshots, lambda: int(self._raft.raftLastApplied))
        seams: dict[str, object] = {
            "createJournal": lambda name: self._raft_log,
            "Serializer": lambda *arguments: self._snapshots,
            "createPoller": lambda kind: NoPoller(),
            "PipeNotifier": NoPipe,
            "monotonicTime": self._clock.seconds,
            "random": self._random,
            "logger": RaftLogger(
                lambda text: self._fail(ClusterError("pysyncobj failed", why=text)),
                lambda: self._raft_log.keeps_entries,
            ),
        }
        for name, seam in seams.items():
            setattr(module, name, seam)
        machine = self._machine

        class Raft(module.SyncObj):  # type: ignore[misc, name-defined]
            """pysyncobj's node, whose commands are not pickles."""

            def _SyncObj__doApplyCommand(self, command: bytes) -> object:  # noqa: N802
                return machine.apply(command[1:]) if command[0] == _REGULAR else None

            def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:  # noqa: N802
                return None

        timeouts = self._timeouts
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            commandsWaitLeader=False,
            appendEntriesBatchSizeBytes=2**24,
            commandsQueueSize=1,
            raftMinTimeout=timeouts.election_minimum_s,
            raftMaxTimeout=timeouts.election_maximum_s,
            appendEntriesPeriod=timeouts.heartbeat_s,
            leaderFallbackTimeout=timeouts.leader_fallback_s,
            connectionTimeout=60,
            logCompactionMinEntries=MAXIMUM_LOG_ENTRIES,
            logCompactionMinTime=_DAY_S,
            dynamicMembershipChange=False,
            useFork=False,
            onStateChanged=self._state_changed,
        )
        raft = Raft(Node(self.node), list(self._nodes.values()), conf, transport=self._transport)
        self._raft = raft
        if self._journal.snapshot is not None:
            raft._SyncObj__loadDumpFile(clearJournal=False)
        return raft


def load_syncobj(name: str) -> ModuleType:
    """An instance of the module `pysyncobj.syncobj` under another name, whose globals are its own."""
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    assert spec is not None
    assert spec.origin is not None
    own = importlib.util.spec_from_file_location(name, spec.origin)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module

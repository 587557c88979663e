"""Raft by pysyncobj, on the node's own loop, links and journal.

Each Election has a pysyncobj of its own (csvd.cluster.raft_instance), whose collaborators are ours
(csvd.cluster.raft_adapters): no sockets, pipes, threads, files or pickles, and the clock and the randomness given.

What is done here around pysyncobj's faults (DESIGN section 7): nothing is sent before the journal is durable; an answer
to an earlier term is dropped; a vote counts once; entries that are here already are taken out of a message, and only
entries that contradict the log cut something off it, never what was applied; a snapshot neither commits nor cuts off
what is in the log; a leader without its majority steps down at once. An error inside stops this node's part in Raft for
good, rather than to go on with a state that may be wrong.

Who votes is what the log says last (csvd.cluster.voters, csvd.cluster.raft_peers). The voters change one at a time, by
a leader that has committed in its own term, when the change before is committed. All others that are linked learn: they
get the log and are not counted. A node that does not vote never stands for election; a leader that has committed its
own removal steps down. A node that knows of no voters (it is joining) gives no vote either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

import msgspec
from pysyncobj.config import FAIL_REASON
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from csvd.cluster.durability import DurabilityGate, RunBlocking
from csvd.cluster.errors import ClusterError, OutcomeUnknown, PeerMessageError
from csvd.cluster.journal import Journal
from csvd.cluster.raft_adapters import NoPipe, NoPoller, RaftLog, RaftLogger, RaftTransport, Snapshots
from csvd.cluster.raft_instance import CANDIDATE, FOLLOWER, LEADER, REGULAR, make_raft
from csvd.cluster.raft_messages import (
    AppendEntries,
    InstallSnapshot,
    NextIndex,
    RaftMessage,
    RequestVote,
    ResponseVote,
    decode,
    encode,
    from_pysyncobj,
    without_known_entries,
)
from csvd.cluster.raft_peers import RaftPeers
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.state_machine import StateMachine
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.voters import CHANGE, VoterHistory, encode_change

MAXIMUM_COMMAND_BYTES: Final = 16 * 1024
MAXIMUM_CHANGE_BYTES: Final = 4 * 1024
"""What an entry has beside its command that changes who votes."""
MAXIMUM_LOG_BYTES: Final = 2 * 1024 * 1024
MAXIMUM_LOG_ENTRIES: Final = 1000
HASTENINGS: Final = 3
"""After the leader's process has ended: tries to be elected that come sooner than others, each with twice the time."""
MAXIMUM_RAFT_MESSAGE_BYTES: Final = 2 * MAXIMUM_LOG_BYTES


class NotLeader(ClusterError):
    """This node does not lead: the command was not taken into the log, and will not be carried out by this try."""


class Election:
    """One node's part in Raft.

    Args:
        node: the name of this node.
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
        self._peers = RaftPeers(node, clock.seconds)
        self._granted: tuple[int, set[str]] = (0, set())  # a term, and who voted for this node in it
        self._outstanding: Deferred[object] | None = None
        self._failure: ClusterError | None = None
        self._wake_call: DelayedCall | None = None
        self._ticked_at_s = clock.seconds()
        self._resent_at_s = 0.0
        self._hastenings = 0
        self._hastened_term = 0
        self._seen: tuple[object, ...] = ()
        self._gate = DurabilityGate(journal, run_blocking, self._fail)
        self._transport = RaftTransport(self._send)
        self._snapshots = Snapshots(journal, machine.take, machine.restore)
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock  # type: ignore[assignment]
        self._history = self._read_history()
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
        return name if name == self.node or name in self._peers.linked else None

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._raft.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """The index up to which this node knows entries to be committed."""
        return int(self._raft.raftCommitIndex)

    @property
    def voters(self) -> frozenset[str]:
        """Who votes now, by what is last in the log, committed or not; empty where this node knows of nobody."""
        return self._history.voters

    @property
    def caught_up(self) -> frozenset[str]:
        """Of an established leader: the nodes that are linked, do not vote, and have all that is committed."""
        if not self.is_established:
            return frozenset()
        learners = self._peers.linked - self.voters
        return frozenset(peer for peer in learners if self._peers.match_index(peer) >= self.commit_index)

    @property
    def failure(self) -> ClusterError | None:
        """Why this node does not take part any more, or None."""
        return self._failure

    def start(self) -> None:
        """Begin to take part."""
        if self.voters == {self.node}:
            self._raft._SyncObj__raftElectionDeadline = 0
        else:
            self._postpone_election()
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
        if not self._peers.linked and not self.is_leader and self.voters != {self.node}:
            # It was alone: give a leader the time to say that it is there, before standing against it.
            self._postpone_election()
        self._peers.connected(peer)
        self._guarded(self._transport.connected, self._peers.node(peer))
        self.wake()

    def disconnected(self, peer: str) -> None:
        """There is no link to a peer any more."""
        was_leader = peer == self.leader
        self._peers.disconnected(peer)
        self._guarded(self._transport.disconnected, self._peers.node(peer))
        if was_leader and not self.is_leader:
            self._hasten_election()
            self._hastenings, self._hastened_term = HASTENINGS, self.term
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
        self._guarded(self._transport.received, self._peers.node(peer), admitted.to_pysyncobj())
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
        return self._propose(command, REGULAR)

    def propose_voters(self, voters: frozenset[str], command: bytes) -> Deferred[object]:
        """Have a command committed and applied that changes who votes; they vote from the moment that it is in the log.

        Args:
            voters: those that the state machine will have when it has applied the command; one more or one fewer.
            command: the command.

        Returns:
            As `propose`; fails with NotLeader also while the change before is not committed.
        """
        assert len(voters ^ self.voters) == 1
        if not self._may_change_voters():
            result: Deferred[object] = Deferred()
            result.errback(NotLeader("this node can not change who votes now"))
            return result
        return self._propose(encode_change(voters, command), CHANGE)

    def _may_change_voters(self) -> bool:
        """Whether the set of voters that counts is committed, and no other can come to count any more.

        Any majorities of two sets that are one apart have a node in common; of sets that are two apart they need not.
        That no other set is about, only a leader that has committed in its own term knows (Raft's thesis, section 4.1,
        and its author's correction of 2015).
        """
        return self.is_established and self._history.index <= self._raft.raftLastApplied

    def _propose(self, command: bytes, kind: int) -> Deferred[object]:
        assert self._outstanding is None
        assert len(command) <= MAXIMUM_COMMAND_BYTES + MAXIMUM_CHANGE_BYTES
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

        self._guarded(self._raft._applyCommand, command, decided, kind)
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
            self._peers.stood_still(now_s - self._ticked_at_s)
        self._ticked_at_s = now_s
        if self._failure is not None:
            return
        if self.voters == {self.node} and not self._journal.is_durable:
            # Alone, this node is the majority: nothing may be committed before it is durable here.
            self._gate.pass_when_durable(self.wake)
            return
        if self._journal.log_bytes > MAXIMUM_LOG_BYTES:
            self._guarded(self._raft.forceLogCompaction)
        if self.node not in self.voters:
            self._raft._SyncObj__raftElectionDeadline = float("inf")
        self._guarded(self._raft.doTick, 0.0)
        self._leave_the_lead()
        if self.leader is not None:
            self._hastenings = 0
        elif self._hastenings and self._raft._SyncObj__raftState == CANDIDATE and self.term != self._hastened_term:
            # The votes may be split, for the others lost their leader in the same moment. Each time with more room: on
            # a slow disk the votes of this very election may still be on their way.
            self._hasten_election(2 ** (HASTENINGS - self._hastenings))
            self._hastenings, self._hastened_term = self._hastenings - 1, self.term
        self._gate.write()
        self._observe()

    def _leave_the_lead(self) -> None:
        """Step down when this node's own removal is committed; the others have been sent that it is, in this tick."""
        if self.is_leader and self.node not in self.voters and self._history.index <= self._raft.raftLastApplied:
            self._raft._SyncObj__raftLeader = None
            self._raft._SyncObj__setState(FOLLOWER)

    def _voters_changed(self) -> None:
        """Another set of voters is the last in the log."""
        self._log.info("those who vote are now {voters}", voters=", ".join(sorted(self.voters)))
        self._peers.set_voters(self.voters)
        if self.node in self.voters and self._raft._SyncObj__raftElectionDeadline == float("inf"):
            self._postpone_election()

    def _observe(self) -> None:
        seen = (self.is_leader, self.is_established, self.leader, self.term, self.caught_up)
        if seen != self._seen:
            self._seen = seen
            self._changed()

    def _postpone_election(self) -> None:
        timeouts = self._timeouts
        pause_s = self._random.uniform(timeouts.election_minimum_s, timeouts.election_maximum_s)
        self._raft._SyncObj__raftElectionDeadline = self._clock.seconds() + pause_s

    def _hasten_election(self, factor: int = 1) -> None:
        timeouts = self._timeouts
        pause_s = factor * self._random.uniform(timeouts.leader_gone_minimum_s, timeouts.leader_gone_maximum_s)
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
            return self._admit_next_index(message) if self._peers.is_known(peer) else None
        if isinstance(message, RequestVote):
            # Whether the candidate votes by this node's log does not matter: its own may have gone further.
            return message if self.voters else None
        if isinstance(message, ResponseVote):
            if self._granted[0] != self.term:
                self._granted = (self.term, set())
            if message.term != self.term or peer in self._granted[1] or peer not in self.voters:
                return None
            self._granted[1].add(peer)
        elif isinstance(message, AppendEntries):
            return without_known_entries(message, self._journal.entries)
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
        role = {CANDIDATE: "stands for election", LEADER: "leads"}.get(new, "follows")
        self._log.info("this node {role}; the last term was {term}", role=role, term=self.term)
        if old == LEADER:
            self._settle(OutcomeUnknown("this node lost its leadership"))

    def _read_history(self) -> VoterHistory:
        """Who votes by the journal as it is at the start."""
        snapshot = self._journal.snapshot
        if snapshot is not None:
            self._machine.restore(snapshot.state)
        history = VoterHistory(snapshot.last[1] if snapshot else 0, self._machine.voters)
        for entry in self._journal.entries:
            history.appended(entry)
        return history

    def _make_raft(self) -> Any:
        """This node's pysyncobj, with the collaborators that it is to use."""
        self._raft_log = RaftLog(
            self._journal,
            self._snapshots,
            lambda: int(self._raft.raftLastApplied),
            history=self._history,
            state_voters=lambda: self._machine.voters,
            voters_changed=self._voters_changed,
        )
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
        raft = make_raft(
            self.node,
            self._peers.others(self.voters),
            seams=seams,
            transport=self._transport,
            apply=self._apply,
            timeouts=self._timeouts,
            state_changed=self._state_changed,
            maximum_log_entries=MAXIMUM_LOG_ENTRIES,
        )
        self._raft = raft
        self._peers.attach(raft, self.voters)
        if self._journal.snapshot is not None:
            raft._SyncObj__loadDumpFile(clearJournal=False)
        return raft

    def _apply(self, command: bytes, voters: frozenset[str] | None) -> object:
        """Apply a committed command, with the voters that the log says it leaves where it changes them."""
        answer = self._machine.apply(command)
        if voters is not None and self._machine.voters != voters:
            raise ClusterError("the log and the state do not have the same voters")
        return answer

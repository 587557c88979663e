"""The coordinator: claimed by Raft's leader; it takes the commands of all nodes and has them committed.

The leader, once it has committed in its term, claims the coordinatorship by compare-and-set on the epoch, unless the
register names it already for an epoch that this very process has claimed. So every term of office, also that of a node
that was started again, has an epoch of its own.

A member that has caught up with the log is made a voter by the coordinator. A command that changes who votes goes into
an entry of its own, which tells Raft the voters that it leaves.

A command is submitted at any node and goes to the coordinator. It carries an idempotency key, so that it can be sent
again, to whoever is the coordinator by then, until its outcome is known or the time is up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.bell import Bell
from csvd.cluster.election import MAXIMUM_COMMAND_BYTES, Election, NotLeader
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.network import Network
from csvd.cluster.reactor import Clock
from csvd.cluster.register import ANSWERS_REMEMBERED, CoordinatorRecord, IdempotencyKey, check_command
from csvd.cluster.register_fields import Answer
from csvd.cluster.replicated_register import Keyed, ReplicatedRegister, encode_entry

MAXIMUM_WAITING: Final = 256
MAXIMUM_AT_ONCE: Final = ANSWERS_REMEMBERED // 2
"""Commands of one node under way; so few that the register still remembers the answer to the first of them."""

_METHOD: Final = "cluster.submit"
_TRY_S: Final = 1.0
_PAUSE_S: Final = 0.05
_PROMOTE: Final = "member_promote"
_CHANGES_VOTERS: Final = frozenset({_PROMOTE, "member_remove"})
_WITHOUT_KEY: Final = frozenset({"guest_read"})
_MUST_BE_MEMBERS: Final = {
    "claim_coordinator": "node",
    "guest_create": "owner",
    "guest_move": "new_owner",
}
"""The field of an operation that names a member; the register refuses others, and here it is said at once."""


@dataclass(slots=True)
class _Waiting:
    command: Keyed
    answer: Deferred[Answer] = field(default_factory=Deferred)


class Coordinator:
    """One node's side of the coordinatorship.

    Args:
        node: the name of this node.
        election: Raft.
        replicated: the register.
        network: for reaching the coordinator.
        clock: the node's loop.
        incarnation: the number of this run of the node.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        node: str,
        election: Election,
        replicated: ReplicatedRegister,
        network: Network,
        clock: Clock,
        incarnation: int,
    ) -> None:
        self._node = node
        self._election = election
        self._replicated = replicated
        self._register = replicated.register
        self._network = network
        self._clock = clock
        self._incarnation = incarnation
        self._claimed_epoch = 0
        self._is_proposing = False
        self._waiting: deque[_Waiting] = deque()
        self._last_sequence = 0
        self._under_way: set[int] = set()
        self._turns: deque[Deferred[None]] = deque()
        self._bell = Bell(clock)
        network.serve(_METHOD, self._submitted)
        replicated.on_change(lambda register: self._bell.ring())

    @property
    def is_acting(self) -> bool:
        """Whether this process is the coordinator, as far as it knows."""
        mine = CoordinatorRecord(self._node, self._claimed_epoch)
        return self._election.is_established and self._register.coordinator == mine

    def changed(self) -> None:
        """The election has changed: claim, go on, or give up what waits."""
        self._advance()
        self._bell.ring()

    async def submit(self, command: dict[str, Any], *, timeout_s: float, key: str | None = None) -> Answer:
        """Have a command carried out once.

        Args:
            command: see csvd.cluster.register.OPERATIONS.
            timeout_s: how long to try.
            key: of an earlier try, from its OutcomeUnknown; None for a new command.

        Returns:
            The register's answer. The register of this node has the change by then, unless it lags by a second.

        Raises:
            CommandRefused: it was not carried out, and will not be.
            OutcomeUnknown: the time is up, and it may have been, or may still be; has the key.
        """
        may_be_done = key is not None
        if not may_be_done:
            self._check(command)
        deadline_s = self._clock.seconds() + timeout_s
        sequence = 0
        if key is None and command["op"] not in _WITHOUT_KEY:
            sequence = await self._sequence(deadline_s)
            key = str(IdempotencyKey(self._node, self._incarnation, sequence))
        try:
            answer = await self._ask_until(deadline_s, (key, command), may_be_done)
        finally:
            self._under_way.discard(sequence)
            self._let_next_go()
        if not answer.get("ok"):
            reason = str(answer.get("reason"))
            if answer.get("expired"):
                raise OutcomeUnknown(f"whether {command['op']} was carried out is not known", why=reason, key=key or "")
            raise CommandRefused(f"{command['op']} was refused", why=reason)
        await self._applied_here(int(answer["revision"]), min(deadline_s, self._clock.seconds() + 1))
        return {name: value for name, value in answer.items() if name != "ok"}

    def _check(self, command: dict[str, Any]) -> None:
        reason = check_command(command)
        if reason is None and command["op"] == _PROMOTE:
            reason = "the coordinator does it by itself, when the node has caught up"
        if reason is None and len(encode_entry([("", command)])) > MAXIMUM_COMMAND_BYTES - 256:
            reason = f"it has more than {MAXIMUM_COMMAND_BYTES - 256} bytes"
        if reason is None:
            named = command.get(_MUST_BE_MEMBERS.get(command["op"], ""))
            if named is not None and self._register.member(named) is None:
                reason = f"there is no node {named} in the cluster"
        if reason is not None:
            raise CommandRefused("the command was refused", why=reason)

    async def _sequence(self, deadline_s: float) -> int:
        """The number of a new command, in its turn, when few enough are under way."""
        if self._turns or not self._may_begin():
            turn: Deferred[None] = Deferred()
            self._turns.append(turn)
            try:
                await turn.addTimeout(max(0.0, deadline_s - self._clock.seconds()), self._clock)  # type: ignore[arg-type]
            except DeferredTimeoutError as error:
                why = "earlier commands of this node are still under way"
                raise CommandRefused("nothing was sent in the time given", why=why) from error
            finally:
                if turn in self._turns:
                    self._turns.remove(turn)
        self._last_sequence += 1
        sequence = self._last_sequence
        self._under_way.add(sequence)
        # It may run at once, and take the next number before this returns.
        self._let_next_go()
        return sequence

    def _may_begin(self) -> bool:
        """Whether the register will still remember the first command under way when one more is done."""
        return not self._under_way or (
            len(self._under_way) < MAXIMUM_AT_ONCE
            and self._last_sequence + 1 - min(self._under_way) < ANSWERS_REMEMBERED
        )

    def _let_next_go(self) -> None:
        if self._turns and self._may_begin():
            self._turns.popleft().callback(None)

    async def _ask_until(self, deadline_s: float, command: Keyed, may_be_done: bool) -> Answer:
        """Ask whoever is the coordinator, again and again, until there is an answer."""
        trouble = "no node is known to lead"
        while (left_s := deadline_s - self._clock.seconds()) > 0:
            if self._election.failure is not None:
                trouble = str(self._election.failure)
                break
            try:
                if self.is_acting:
                    return await self._propose(command).addTimeout(left_s, self._clock)  # type: ignore[arg-type]
                leader = self._election.leader
                if leader is not None and leader != self._node:
                    return await self._ask(leader, command, min(left_s, _TRY_S))
            except (NotLeader, PeerUnreachable) as error:
                trouble = str(error)
            except CommandRefused as error:
                # This try was refused before it came to the register; an earlier one may have come that far.
                if not may_be_done or command[0] is None:
                    raise
                trouble = str(error)
                break
            except (OutcomeUnknown, DeferredTimeoutError) as error:
                may_be_done = True
                trouble = str(error) or "no answer in time"
            await self._woken(min(deadline_s, self._clock.seconds() + _PAUSE_S))
        operation = command[1]["op"]
        if not may_be_done or command[0] is None:
            raise CommandRefused(f"{operation} was not taken by a coordinator in the time given", why=trouble)
        raise OutcomeUnknown(f"whether {operation} was carried out is not known", why=trouble, key=command[0])

    async def _ask(self, leader: str, command: Keyed, timeout_s: float) -> Answer:
        """Ask another node, which is thought to be the coordinator."""
        params = {"key": command[0], "command": dict(command[1])}
        try:
            result = await self._network.call(leader, _METHOD, params, timeout_s=timeout_s)
        except RemoteError as error:
            if error.kind == CommandRefused.__name__:
                raise CommandRefused(error.what, where=error.where, why=error.why) from error
            raise OutcomeUnknown("the coordinator failed", where=leader, why=str(error)) from error
        answer = result.get("answer")
        if isinstance(answer, dict):
            return answer
        if result.get("outcome") == "not done":
            raise NotLeader("it is not the coordinator", where=leader)
        raise OutcomeUnknown("it lost its leadership meanwhile", where=leader)

    async def _submitted(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        """Another node submits a command here."""
        key, command = params.get("key"), params.get("command")
        if not isinstance(command, dict):
            raise CommandRefused("the command was refused", why="there is none")
        self._check(command)
        if key is not None:
            parsed = IdempotencyKey.parse(key)
            if parsed is None or parsed.node != peer:
                raise CommandRefused("the command was refused", why="the idempotency key is another node's")
        try:
            return {"answer": await self._propose((key, command))}
        except NotLeader:
            return {"outcome": "not done"}
        except OutcomeUnknown:
            return {"outcome": "unknown"}

    def _propose(self, command: Keyed) -> Deferred[Answer]:
        """Put a command into the log, with what else waits; fails with NotLeader or OutcomeUnknown."""
        waiting = _Waiting(command)
        if len(self._waiting) >= MAXIMUM_WAITING:
            waiting.answer.errback(NotLeader("the coordinator is busy", where=self._node))
            return waiting.answer
        self._waiting.append(waiting)
        self._advance()
        return waiting.answer

    def _advance(self) -> None:
        """Do what is next: claim, or propose what waits, or give it up."""
        if self._is_proposing:
            return
        if self._election.is_established and not self.is_acting:
            self._claim()
        elif self.is_acting and (learner := self._learner()):
            self._propose_alone((None, {"op": _PROMOTE, "id": learner}), lambda answers: None, lambda error: None)
        elif self.is_acting:
            self._propose_waiting()
        elif not self._election.is_leader:
            waiting, self._waiting = self._waiting, deque()
            for one in waiting:
                one.answer.errback(NotLeader("this node is not the coordinator", where=self._node))

    def _claim(self) -> None:
        claim = {"op": "claim_coordinator", "node": self._node, "expected_epoch": self._register.epoch}

        def claimed(answers: object) -> None:
            assert isinstance(answers, list)
            if answers[0]["ok"]:
                self._claimed_epoch = answers[0]["epoch"]
                self._log.info("this node is the coordinator, epoch {epoch}", epoch=self._claimed_epoch)

        self._propose_entry([(None, claim)], claimed, lambda error: None)

    def _propose_waiting(self) -> None:
        if not self._waiting:
            return
        batch = [self._waiting.popleft()]
        size_bytes = len(encode_entry([batch[0].command]))
        is_alone = batch[0].command[1]["op"] in _CHANGES_VOTERS
        while self._waiting and not is_alone and self._waiting[0].command[1]["op"] not in _CHANGES_VOTERS:
            size_bytes += len(encode_entry([self._waiting[0].command]))
            if size_bytes > MAXIMUM_COMMAND_BYTES:
                break
            batch.append(self._waiting.popleft())

        def answered(answers: object) -> None:
            assert isinstance(answers, list)
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answer.callback(answer)

        def failed(error: ClusterError) -> None:
            for waiting in batch:
                waiting.answer.errback(error)

        if is_alone:
            self._propose_alone(batch[0].command, answered, failed)
        else:
            self._propose_entry([waiting.command for waiting in batch], answered, failed)

    def _learner(self) -> str | None:
        """A member that is to vote from now on, for it has caught up."""
        caught_up = self._election.caught_up
        waiting = (member.id for member in self._register.members.values() if not member.is_voter)
        return next((node for node in waiting if node in caught_up), None)

    def _propose_alone(
        self, command: Keyed, answered: Callable[[object], None], failed: Callable[[ClusterError], None]
    ) -> None:
        """Propose a command that may change who votes: Raft is told the voters that it leaves.

        This node has applied all that is in its log, for it proposes one entry at a time: what the command does to the
        register now it will do when it is applied.
        """
        voters = self._replicated.voters_after(command)
        self._propose_entry([command], answered, failed, voters=None if voters == self._election.voters else voters)

    def _propose_entry(
        self,
        commands: Sequence[Keyed],
        answered: Callable[[object], None],
        failed: Callable[[ClusterError], None],
        *,
        voters: frozenset[str] | None = None,
    ) -> None:
        def settled(result: object) -> None:
            self._is_proposing = False
            if isinstance(result, Failure):
                error = result.value
                failed(error if isinstance(error, ClusterError) else ClusterError("it failed inside", why=repr(error)))
            else:
                answered(result)
            self._clock.callLater(0, self.changed)

        self._is_proposing = True
        entry = encode_entry(commands)
        proposed = self._election.propose(entry) if voters is None else self._election.propose_voters(voters, entry)
        proposed.addBoth(settled).addErrback(lambda failure: self._log.failure("the coordinator failed", failure))

    async def _applied_here(self, revision: int, deadline_s: float) -> None:
        """Wait until this node's register has a change."""
        while self._register.revision < revision and await self._woken(deadline_s):
            pass

    async def _woken(self, deadline_s: float) -> bool:
        """Wait for any change here, at most until a time; whether one came before it."""
        return await self._bell.wait(deadline_s - self._clock.seconds())

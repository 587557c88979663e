"""The coordinator: claims, epochs, and commands that find it whoever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.cluster.coordinator import MAXIMUM_AT_ONCE, MAXIMUM_WAITING, Coordinator
from csvd.cluster.election import Election, NotLeader
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.network import Network
from csvd.cluster.register import ANSWERS_REMEMBERED, CoordinatorRecord
from csvd.cluster.replicated_register import ReplicatedRegister, encode_entry
from tests.unit.cluster.registers import small_register


class ScriptedElection:
    """Raft as the test wants it: who leads, and what becomes of a proposal."""

    def __init__(self, clock: Clock, replicated: ReplicatedRegister) -> None:
        self.clock = clock
        self.replicated = replicated
        self.is_leader = False
        self.is_established = False
        self.leader: str | None = None
        self.failure: ClusterError | None = None
        self.held: list[tuple[bytes, Deferred[object]]] | None = None
        self.entries = 0
        self.caught_up: frozenset[str] = frozenset()
        self.changes: list[frozenset[str]] = []

    @property
    def voters(self) -> frozenset[str]:
        return self.replicated.voters

    def propose_voters(self, voters: frozenset[str], command: bytes) -> Deferred[object]:
        self.changes.append(voters)
        return self.propose(command)

    def propose(self, command: bytes) -> Deferred[object]:
        result: Deferred[object] = Deferred()
        if not self.is_leader:
            result.errback(NotLeader("this node does not lead"))
        elif self.held is not None:
            self.held.append((command, result))
        else:
            self.entries += 1
            self.clock.callLater(0.001, lambda: result.callback(self.replicated.apply(command)))
        return result

    def commit_held(self) -> None:
        held, self.held = self.held or [], None
        for command, result in held:
            result.callback(self.replicated.apply(command))

    def lose_held(self) -> None:
        held, self.held = self.held or [], None
        for _, result in held:
            result.errback(OutcomeUnknown("this node lost its leadership"))


class ScriptedNetwork:
    """Calls to other nodes as the test wants them answered."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[str, dict[str, Any]], dict[str, Any]] = self.unreachable

    def unreachable(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        raise PeerUnreachable("there is no link to the node", where=peer)

    def serve(self, method: str, handler: Callable[..., Any]) -> None:
        self.handlers[method] = handler

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        assert method in self.handlers
        self.called.append((peer, params))
        return self.answer(peer, params)


class Stage:
    """The coordinator of n1 among its scripted others."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.replicated = ReplicatedRegister(self.clock)
        self.replicated.register.restore(small_register().snapshot())
        self.register = self.replicated.register
        self.election = ScriptedElection(self.clock, self.replicated)
        self.network = ScriptedNetwork()
        self.coordinator = Coordinator(
            node="n1",
            election=cast(Election, self.election),
            replicated=self.replicated,
            network=cast(Network, self.network),
            clock=self.clock,
            incarnation=7,
        )

    def lead(self) -> None:
        self.election.is_leader = self.election.is_established = True
        self.election.leader = "n1"
        self.coordinator.changed()
        self.run(0.01)

    def follow(self, leader: str | None) -> None:
        self.election.is_leader = self.election.is_established = False
        self.election.leader = leader
        self.coordinator.changed()

    def is_acting(self) -> bool:
        return self.coordinator.is_acting

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 1000)):
            self.clock.advance(0.001)

    def submit(self, command: dict[str, Any], *, timeout_s: float = 5, key: str | None = None) -> list[Any]:
        outcome: list[Any] = []
        submitted = self.coordinator.submit(command, timeout_s=timeout_s, key=key)
        Deferred.fromCoroutine(submitted).addBoth(outcome.append)
        return outcome

    def asked_by(self, peer: str, params: dict[str, Any]) -> list[Any]:
        outcome: list[Any] = []
        handler = self.network.handlers["cluster.submit"]
        Deferred.fromCoroutine(handler(peer, params)).addBoth(outcome.append)
        return outcome


def create(name: str = "vm", owner: str = "n1") -> dict[str, Any]:
    return {"op": "guest_create", "name": name, "owner": owner, "spec": {}}


def error(outcome: list[Any]) -> BaseException:
    assert isinstance(outcome[0], Failure)
    assert outcome[0].value is not None
    return outcome[0].value


def test_a_leader_claims_the_next_epoch_when_the_register_names_none_or_another() -> None:
    stage = Stage()
    stage.lead()
    assert stage.register.coordinator == CoordinatorRecord("n1", 1)
    assert stage.is_acting()
    stage.follow("n2")
    stage.register.apply({"op": "claim_coordinator", "node": "n2", "expected_epoch": 1})
    assert not stage.is_acting()
    stage.lead()
    assert stage.register.coordinator == CoordinatorRecord("n1", 3)


def test_a_leader_that_has_not_committed_in_its_term_claims_nothing() -> None:
    stage = Stage()
    stage.election.is_leader = True
    stage.coordinator.changed()
    stage.run(0.1)
    assert stage.register.coordinator is None
    assert stage.election.entries == 0


def test_a_leader_that_was_started_again_claims_anew_and_one_that_was_not_does_not() -> None:
    stage = Stage()
    stage.register.apply({"op": "claim_coordinator", "node": "n1", "expected_epoch": 0})
    stage.lead()
    assert stage.register.coordinator == CoordinatorRecord("n1", 2)
    stage.follow(None)
    stage.lead()
    assert stage.register.coordinator == CoordinatorRecord("n1", 2)
    assert stage.is_acting()


def test_a_claim_that_came_too_late_is_made_again_with_the_new_epoch() -> None:
    stage = Stage()
    stage.election.held = []
    stage.lead()
    stage.register.apply({"op": "claim_coordinator", "node": "n2", "expected_epoch": 0})
    stage.election.commit_held()
    stage.run(0.01)
    assert stage.register.coordinator == CoordinatorRecord("n1", 2)


def test_a_command_at_the_coordinator_is_carried_out() -> None:
    stage = Stage()
    stage.lead()
    outcome = stage.submit(create())
    stage.run(0.01)
    assert outcome == [{"name": "vm", "owner": "n1", "epoch": 1, "state": "created", "revision": 2}]


def test_a_definite_no_of_the_register_is_refused_with_its_reason() -> None:
    stage = Stage()
    stage.lead()
    stage.submit(create())
    outcome = stage.submit(create())
    stage.run(0.01)
    refused = error(outcome)
    assert isinstance(refused, CommandRefused)
    assert "exists already" in str(refused)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ({"op": "nothing"}, "op is one of"),
        (create(owner="n9"), "no node n9"),
        ({"op": "guest_move", "name": "vm", "owner": "n1", "epoch": 1, "new_owner": "n9"}, "no node n9"),
    ],
)
def test_a_command_that_can_not_be_is_refused_at_once(command: dict[str, Any], why: str) -> None:
    stage = Stage()
    refused = error(stage.submit(command))
    assert isinstance(refused, CommandRefused)
    assert why in str(refused)
    assert isinstance(error(stage.asked_by("n2", {"key": None, "command": command})), CommandRefused)


def test_commands_that_wait_go_into_the_log_together() -> None:
    stage = Stage()
    stage.lead()
    outcomes = [stage.submit(create(name=f"vm{number}")) for number in range(100)]
    stage.run(0.1)
    assert all(outcome[0]["name"] == f"vm{number}" for number, outcome in enumerate(outcomes))
    assert stage.election.entries < 30


def test_no_more_commands_are_under_way_than_answers_are_remembered() -> None:
    stage = Stage()
    stage.lead()
    stage.election.held = []
    outcomes = [stage.submit(create(name=f"vm{number}"), timeout_s=1) for number in range(MAXIMUM_AT_ONCE + 5)]
    stage.run(0.5)
    assert all(outcome == [] for outcome in outcomes)
    stage.run(0.6)
    kinds = [type(error(outcome)) for outcome in outcomes]
    assert kinds == [OutcomeUnknown] * MAXIMUM_AT_ONCE + [CommandRefused] * 5


def test_commands_that_waited_for_their_turn_together_have_keys_of_their_own() -> None:
    """Two with one key: the second is answered by what the first did, and is not carried out."""
    stage = Stage()
    stage.follow("n2")
    is_first_answered = False

    def answer(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        if params["command"]["name"] == "vm0" and not is_first_answered:
            raise OutcomeUnknown("no answer")
        return {"answer": {"ok": True, "revision": 0}}

    stage.network.answer = answer
    outcomes = [stage.submit(create(name=f"vm{number}")) for number in range(ANSWERS_REMEMBERED + 3)]
    stage.run(0.2)
    assert [bool(outcome) for outcome in outcomes] == [False] + [True] * (ANSWERS_REMEMBERED - 1) + [False] * 3
    is_first_answered = True
    stage.run(0.2)
    assert all(outcomes)
    keys = {params["key"] for _, params in stage.network.called}
    assert len(keys) == len(outcomes)


def test_a_node_without_a_leader_refuses_when_the_time_is_up_for_nothing_was_sent() -> None:
    stage = Stage()
    outcome = stage.submit(create(), timeout_s=0.5)
    stage.run(0.6)
    refused = error(outcome)
    assert isinstance(refused, CommandRefused)
    assert "no node is known to lead" in str(refused)


def test_a_leader_that_can_not_be_reached_is_a_definite_no() -> None:
    stage = Stage()
    stage.follow("n2")
    outcome = stage.submit(create(), timeout_s=0.5)
    stage.run(0.6)
    assert isinstance(error(outcome), CommandRefused)
    assert len(stage.network.called) > 5


def test_a_command_follows_the_coordinatorship_with_the_same_key() -> None:
    stage = Stage()
    stage.follow("n2")
    answer = {"ok": True, "name": "vm", "revision": 0}

    def answer_at_n3(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        if peer == "n3":
            return {"answer": answer}
        stage.follow("n3")
        raise OutcomeUnknown("no answer")

    stage.network.answer = answer_at_n3
    outcome = stage.submit(create())
    stage.run(0.2)
    assert outcome == [{"name": "vm", "revision": 0}]
    assert [peer for peer, _ in stage.network.called] == ["n2", "n3"]
    assert stage.network.called[0][1]["key"] == stage.network.called[1][1]["key"] == "n1/7/1"


def test_each_command_has_a_key_of_its_own_and_a_read_has_none() -> None:
    stage = Stage()
    stage.follow("n2")
    stage.network.answer = lambda peer, params: {"answer": {"ok": True, "guest": None, "revision": 0}}
    stage.submit(create())
    stage.submit(create())
    stage.submit({"op": "guest_read", "name": "vm"})
    assert [params["key"] for _, params in stage.network.called] == ["n1/7/1", "n1/7/2", None]


def test_a_command_whose_outcome_is_unknown_can_be_asked_again_and_is_done_once() -> None:
    stage = Stage()
    stage.lead()
    stage.election.held = []
    outcome = stage.submit(create(), timeout_s=0.5)
    stage.run(0.6)
    unknown = error(outcome)
    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.key == "n1/7/1"
    stage.election.commit_held()
    again = stage.submit(create(), key=unknown.key)
    stage.run(0.05)
    assert again[0]["name"] == "vm"
    assert stage.register.revision == 2


def test_a_try_that_is_refused_after_one_that_may_have_been_done_ends_as_unknown() -> None:
    """The node was removed meanwhile: its command is refused at the door, and may be done all the same."""
    stage = Stage()
    stage.follow("n2")
    tries = 0

    def answer(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OutcomeUnknown("no answer")
        raise RemoteError("the command was refused", why="there is no node n1", kind="CommandRefused")

    stage.network.answer = answer
    outcome = stage.submit(create())
    stage.run(0.3)
    unknown = error(outcome)
    assert isinstance(unknown, OutcomeUnknown)
    again = stage.submit(create(), key=unknown.key)
    stage.run(0.3)
    assert isinstance(error(again), OutcomeUnknown)


def test_an_answer_of_not_the_coordinator_is_tried_again_and_ends_as_a_definite_no() -> None:
    stage = Stage()
    stage.follow("n2")
    stage.network.answer = lambda peer, params: {"outcome": "not done"}
    outcome = stage.submit(create(), timeout_s=0.5)
    stage.run(0.6)
    assert isinstance(error(outcome), CommandRefused)


@pytest.mark.parametrize("answer", [{"outcome": "unknown"}, {}, {"answer": 5}])
def test_an_answer_that_tells_nothing_ends_as_unknown(answer: dict[str, Any]) -> None:
    stage = Stage()
    stage.follow("n2")
    stage.network.answer = lambda peer, params: answer
    outcome = stage.submit(create(), timeout_s=0.5)
    stage.run(0.6)
    assert isinstance(error(outcome), OutcomeUnknown)


def test_an_error_inside_of_the_coordinator_ends_as_unknown_and_its_refusal_as_refused() -> None:
    for kind, expected in (("ClusterError", OutcomeUnknown), ("CommandRefused", CommandRefused)):
        stage = Stage()
        stage.follow("n2")

        def fail(peer: str, params: dict[str, Any], kind: str = kind) -> dict[str, Any]:
            raise RemoteError("it said no", kind=kind)

        stage.network.answer = fail
        outcome = stage.submit(create(), timeout_s=0.5)
        stage.run(0.6)
        assert type(error(outcome)) is expected


def test_a_key_that_has_expired_ends_as_unknown() -> None:
    stage = Stage()
    stage.lead()
    stage.register.apply(create(name="later"), "n1/8/1")
    outcome = stage.submit(create(), key="n1/7/1")
    stage.run(0.05)
    assert isinstance(error(outcome), OutcomeUnknown)
    assert "vm" not in stage.register.guests


def test_commands_that_wait_for_a_leader_that_is_deposed_go_to_the_next() -> None:
    stage = Stage()
    stage.lead()
    stage.election.held = []
    outcomes = [stage.submit(create(name=f"vm{number}")) for number in range(3)]
    stage.network.answer = lambda peer, params: {"answer": {"ok": True, "peer": peer, "revision": 0}}
    stage.follow("n2")
    stage.election.lose_held()
    stage.run(0.2)
    assert [outcome[0]["peer"] for outcome in outcomes] == ["n2"] * 3


def test_another_nodes_command_is_carried_out_under_its_own_key_only() -> None:
    stage = Stage()
    stage.lead()
    outcome = stage.asked_by("n2", {"key": "n2/1/1", "command": create()})
    stage.run(0.01)
    assert outcome[0]["answer"]["name"] == "vm"
    assert "another node's" in str(error(stage.asked_by("n2", {"key": "n3/1/1", "command": create()})))
    assert isinstance(error(stage.asked_by("n2", {"key": 5, "command": create()})), CommandRefused)
    assert isinstance(error(stage.asked_by("n2", {"key": None, "command": "x"})), CommandRefused)


def test_a_node_that_is_not_the_coordinator_says_so_and_one_that_lost_it_says_unknown() -> None:
    stage = Stage()
    assert stage.asked_by("n2", {"key": "n2/1/1", "command": create()}) == [{"outcome": "not done"}]
    stage.lead()
    stage.election.held = []
    outcome = stage.asked_by("n2", {"key": "n2/1/1", "command": create()})
    stage.election.lose_held()
    stage.run(0.01)
    assert outcome == [{"outcome": "unknown"}]


def test_a_coordinator_that_has_too_much_to_do_takes_no_more() -> None:
    stage = Stage()
    stage.lead()
    stage.election.held = []
    outcomes = [
        stage.asked_by("n2", {"key": f"n2/1/{number}", "command": create(name=f"vm{number}")})
        for number in range(1, MAXIMUM_WAITING + 3)
    ]
    assert outcomes[-1] == [{"outcome": "not done"}]
    assert all(outcome == [] for outcome in outcomes[:-1])


def test_the_register_here_has_a_change_when_its_submit_returns() -> None:
    stage = Stage()
    stage.follow("n2")
    stage.network.answer = lambda peer, params: {"answer": {"ok": True, "name": "vm", "revision": 1}}
    outcome = stage.submit(create())
    stage.run(0.1)
    assert outcome == []
    stage.replicated.apply(b"")
    stage.register.apply(create())
    stage.coordinator.changed()
    stage.run(0.01)
    assert outcome == [{"name": "vm", "revision": 1}]


def test_a_node_that_failed_gives_up_its_commands_at_once() -> None:
    stage = Stage()
    outcome = stage.submit(create(), timeout_s=100)
    stage.election.failure = ClusterError("the disk is gone")
    stage.coordinator.changed()
    stage.run(0.1)
    assert "the disk is gone" in str(error(outcome))


def test_listeners_hear_of_changes_together_and_outside_of_raft() -> None:
    clock = Clock()
    replicated = ReplicatedRegister(clock)
    replicated.register.restore(small_register().snapshot())
    heard: list[int] = []

    def fail(register: object) -> None:
        raise ValueError("a listener's fault")

    replicated.on_change(fail)
    unsubscribe = replicated.on_change(lambda register: heard.append(register.revision))
    replicated.apply(encode_entry([(None, create(name="a")), (None, create(name="b"))]))
    replicated.apply(encode_entry([(None, create(name="c"))]))
    assert heard == []
    clock.advance(0)
    assert heard == [3]
    unsubscribe()
    unsubscribe()
    replicated.apply(encode_entry([(None, create(name="d"))]))
    clock.advance(0)
    assert heard == [3]


def test_an_entry_that_is_none_is_skipped_by_all_alike() -> None:
    replicated = ReplicatedRegister(Clock())
    assert replicated.apply(b"\xc1garbage") == []
    assert replicated.apply(b"\x91" * 5000) == []
    assert replicated.register.revision == 0


def token_add() -> dict[str, Any]:
    return {"op": "token_add", "id": "a" * 64, "expires_at_s": 10, "is_witness": False, "at_s": 1}


def join(node: str) -> dict[str, Any]:
    fields = {"token": "a" * 64, "id": node, "address": "h:1", "fingerprint": "b" * 64, "at_s": 1}
    return {"op": "member_join", **fields}


def test_a_member_that_has_caught_up_is_made_a_voter_and_raft_is_told() -> None:
    stage = Stage()
    stage.lead()
    for command in (token_add(), join("n4")):
        stage.submit(command)
        stage.run(0.01)
    assert stage.election.changes == []
    stage.election.caught_up = frozenset({"n4", "a stranger"})
    stage.coordinator.changed()
    stage.run(0.01)
    assert stage.election.changes == [{"n1", "n2", "n3", "n4"}]
    assert stage.register.voters == {"n1", "n2", "n3", "n4"}


def test_nobody_else_makes_a_voter() -> None:
    stage = Stage()
    stage.lead()
    refused = error(stage.submit({"op": "member_promote", "id": "n4"}))
    assert isinstance(refused, CommandRefused)
    assert "when the node has caught up" in str(refused)


def test_a_removal_goes_into_the_log_alone_and_raft_is_told() -> None:
    stage = Stage()
    stage.lead()
    commands = [create("a"), create("b"), {"op": "member_remove", "id": "n3"}, create("c"), create("d")]
    outcomes = [stage.submit(command) for command in commands]
    stage.run(0.05)
    assert [outcome[0]["revision"] for outcome in outcomes] == [2, 3, 4, 5, 6]
    assert stage.election.changes == [{"n1", "n2"}]


def test_a_removal_that_is_refused_or_asked_again_changes_no_voters() -> None:
    stage = Stage()
    stage.lead()
    remove = {"op": "member_remove", "id": "n3"}
    stage.submit(remove)
    stage.run(0.01)
    assert isinstance(error_after(stage, remove), CommandRefused)
    again = stage.submit(remove, key="n1/7/1")
    stage.run(0.01)
    assert again[0]["id"] == "n3"
    assert stage.election.changes == [{"n1", "n2"}]


def error_after(stage: Stage, command: dict[str, Any]) -> BaseException:
    outcome = stage.submit(command)
    stage.run(0.01)
    return error(outcome)

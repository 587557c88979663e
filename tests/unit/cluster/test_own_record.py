"""A node's own record: its address is kept right, and its certificate renewed in steps that survive a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from csvd.cluster.errors import CommandRefused
from csvd.cluster.identity.certificate import NODE_LIFE_S, NodeIdentity, make_cluster
from csvd.cluster.identity.files import load_identity, load_renewal, store_identity, store_renewal
from csvd.cluster.own_record import LOOK_S, SETTLE_S, OwnRecord
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member

NOW_S = 1_800_000_000.0
DUE_S = NOW_S + NODE_LIFE_S * 2 / 3


class Surroundings:
    """A register, a network and files; what was done to them is noted in order."""

    def __init__(
        self, directory: Path, identity: NodeIdentity, *, fingerprints: tuple[str, ...], others: int = 1
    ) -> None:
        self.directory = directory
        self.clock = Clock()
        self.now_s = NOW_S
        self.notes: list[str] = []
        self.shows_old = False
        self.is_refusing = False
        self.register = Register(
            [
                Member("n1", "n1", 1, "h:1", fingerprints, is_voter=True),
                *(Member(f"m{number}", f"m{number}", number + 2, f"m:{number}") for number in range(others)),
            ]
        )
        self.record = OwnRecord(
            directory,
            identity,
            "h:1",
            cluster=self,
            network=self,
            clock=self.clock,
            wall_s=lambda: self.now_s,
            run=self._run,
        )

    def _run(self, job: Any) -> Deferred[Any]:
        return succeed(job())

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if self.is_refusing:
            raise CommandRefused("there is no leader")
        answer = self.register.apply(command, None)
        assert answer["ok"], answer
        self.notes.append(f"register {[self.name(one) for one in self.own.fingerprints]}")
        return answer

    @property
    def own(self) -> Member:
        return self.register.members["n1"]

    def name(self, fingerprint: str) -> str:
        return "old" if fingerprint == self.old else "new"

    def set_identity(self, identity: NodeIdentity) -> None:
        stored = load_identity(self.directory)
        self.notes.append(f"use {self.name(identity.fingerprint)}, stored {self.name(stored.fingerprint)}")
        self.shows_old = True

    def renew_links(self) -> None:
        self.notes.append("links anew")

    old = ""


@pytest.fixture
def identity(tmp_path: Path) -> NodeIdentity:
    made = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]
    store_identity(tmp_path, made)
    return made


@pytest.fixture
def around(tmp_path: Path, identity: NodeIdentity) -> Surroundings:
    made = Surroundings(tmp_path, identity, fingerprints=(identity.fingerprint,))
    made.old = identity.fingerprint
    return made


def test_nothing_is_done_while_all_is_right(around: Surroundings) -> None:
    around.record.start()
    around.now_s = DUE_S - 7200
    around.clock.advance(LOOK_S)
    assert around.notes == []
    around.record.stop()
    assert around.clock.getDelayedCalls() == []


def test_a_certificate_is_renewed_in_its_order_at_two_thirds_of_its_life(around: Surroundings) -> None:
    around.record.start()
    around.now_s = DUE_S
    around.clock.advance(LOOK_S)
    assert around.notes == ["register ['old', 'new']"]
    around.clock.advance(SETTLE_S)
    assert around.notes[1:] == ["use new, stored new", "links anew"]
    around.clock.advance(LOOK_S)
    assert len(around.notes) == 3  # a stream shows the old one still
    around.shows_old = False
    around.clock.advance(LOOK_S)
    assert around.notes[3:] == ["register ['new']"]
    around.clock.advance(LOOK_S)
    assert len(around.notes) == 4
    assert load_identity(around.directory).fingerprint == around.own.fingerprints[0]
    assert around.record.identity.fingerprint == around.own.fingerprints[0]


def test_a_renewal_that_the_register_does_not_take_is_tried_again_with_the_same_key(around: Surroundings) -> None:
    around.is_refusing = True
    around.now_s = DUE_S
    around.record.start()
    kept = load_renewal(around.directory, around.record.identity)
    assert kept is not None
    assert around.notes == []
    around.is_refusing = False
    around.clock.advance(LOOK_S)
    assert around.own.fingerprints == (around.old, kept.fingerprint)
    around.clock.advance(SETTLE_S)
    assert load_identity(around.directory).fingerprint == kept.fingerprint


def test_a_renewal_goes_on_after_a_restart(around: Surroundings, identity: NodeIdentity) -> None:
    renewed = identity.renewed(now_s=NOW_S)
    store_renewal(around.directory, renewed)
    around.record.start()
    around.clock.advance(SETTLE_S)
    assert around.record.identity.fingerprint == renewed.fingerprint
    assert around.own.fingerprints == (around.old, renewed.fingerprint)
    # And one that ended before the old one was taken out:
    after = Surroundings(
        around.directory, load_identity(around.directory), fingerprints=(around.old, renewed.fingerprint)
    )
    after.old = around.old
    after.record.start()
    assert after.notes == ["register ['new']"]


def test_a_stop_in_the_middle_leaves_nothing_running(around: Surroundings) -> None:
    around.now_s = DUE_S
    around.record.start()
    around.record.stop()
    assert around.clock.getDelayedCalls() == []
    around.clock.advance(SETTLE_S + LOOK_S)
    assert around.notes == ["register ['old', 'new']"]


def test_an_address_that_has_changed_goes_into_the_register(around: Surroundings) -> None:
    around.register.apply({"op": "member_set", "id": "n1", "address": "elsewhere:1"}, None)
    around.record.start()
    assert around.own.address == "h:1"


def test_a_node_that_was_alone_tells_its_key_and_one_that_is_not_does_not(
    tmp_path: Path, identity: NodeIdentity
) -> None:
    alone = Surroundings(tmp_path, identity, fingerprints=(), others=0)
    alone.record.start()
    assert alone.own.fingerprints == (identity.fingerprint,)
    among = Surroundings(tmp_path, identity, fingerprints=("ab" * 32,))
    among.record.start()
    assert among.own.fingerprints == ("ab" * 32,)


def test_a_node_that_is_no_member_does_nothing(around: Surroundings) -> None:
    around.register = Register()
    around.now_s = DUE_S
    around.record.start()
    assert around.notes == []

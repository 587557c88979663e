"""Anything that initiators may do at once, in any pieces, against a model of the disk; and twice, where two ways of the
data path must not differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi.codes import TaskAttribute
from csvd.scsi.outcome import Status
from tests.pair.script.host import Sent
from tests.pair.script.steps import HOSTS, Manner, Push, Resize, Step, Transfer, eventful, manners, peaceful
from tests.pair.script.world import World

pairs_of_manners = st.lists(manners(), min_size=HOSTS, max_size=HOSTS)


def played(steps: Sequence[Step], how: Sequence[Manner], **world: Any) -> World:
    """The world after a script; it has been judged."""
    played = World(how, **world)
    try:
        played.play(steps)
        played.judge()
    finally:
        played.close()
    return played


def said_of(sent: Sent) -> tuple[Any, ...]:
    """What a host was told of a request, without what others did meanwhile."""
    return sent.tag, sent.status, sent.sense, sent.residual, len(sent.data), sent.response


@settings(max_examples=40)
@given(eventful(), pairs_of_manners, st.booleans())
def test_every_answer_to_any_script_is_right(steps: list[Step], how: list[Manner], slow: bool) -> None:
    played(steps, how, slow=slow)


@settings(max_examples=40)
@given(eventful(most_blocks=300), pairs_of_manners)
def test_pdu_by_pdu_the_express_path_says_the_same_bytes(steps: list[Step], how: list[Manner]) -> None:
    express = played(steps, how, pdu_by_pdu=True, express=True)
    plain = played(steps, how, pdu_by_pdu=True, express=False)
    assert [host.output for host in express.hosts] == [host.output for host in plain.hosts]
    assert express.disk.content() == plain.disk.content()


@settings(max_examples=40)
@given(peaceful(), pairs_of_manners, st.booleans())
def test_in_any_batches_the_express_path_gives_the_same_answers(
    steps: list[Step], how: list[Manner], slow: bool
) -> None:
    express = played(steps, how, slow=slow, express=True)
    plain = played(steps, how, slow=slow, express=False)
    assert [said_of(sent) for sent in express.requests] == [said_of(sent) for sent in plain.requests]


@settings(max_examples=40)
@given(peaceful(most_blocks=300), pairs_of_manners)
def test_how_bytes_are_cut_into_turns_changes_no_answer(steps: list[Step], how: list[Manner]) -> None:
    one_by_one = played(steps, how, pdu_by_pdu=True)
    in_batches = played(steps, how)
    assert [said_of(sent) for sent in one_by_one.requests] == [said_of(sent) for sent in in_batches.requests]


@settings(max_examples=40)
@given(eventful(most_blocks=130), pairs_of_manners, st.booleans(), st.integers(0, 99))
def test_wherever_a_socket_cuts_what_it_takes_nothing_is_lost_or_moved(
    steps: list[Step], how: list[Manner], slow: bool, seed: int
) -> None:
    played(steps, how, slow=slow, stingy=seed)


def test_a_write_that_did_not_fit_when_it_came_and_does_when_its_turn_comes_is_to_be_sent_again() -> None:
    """Its data was not taken: GOOD would be a lie."""
    write = _one_block(block=20, write=True)
    ordered = _one_block()._replace(attribute=TaskAttribute.ORDERED)
    script: list[Step] = [_one_block(), ordered, Resize(20), _one_block(), write, Push(0, 0), Resize(4096)]
    outcome = played(script, [Manner(out_segment=262144)] * HOSTS, slow=True)
    (sent,) = [sent for sent in outcome.requests if sent.step == write]
    assert sent.status == Status.BUSY


def _one_block(*, block: int = 0, write: bool = False) -> Transfer:
    return Transfer(
        host=0,
        write=write,
        block=block,
        blocks=1,
        long=False,
        attribute=TaskAttribute.SIMPLE,
        fua=False,
        immediate_bytes=1 << 20,
        unsolicited=False,
        surplus_bytes=0,
        urgent=False,
    )

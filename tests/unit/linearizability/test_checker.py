"""The checker against histories of which it is known what they are, and against one that tries every order."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from tests.linearizability.checker import Judgement, check
from tests.linearizability.history import FOR_EVER, History, Operation, Outcome
from tests.linearizability.models import CONFLICT, GOOD, EpochRegister, Record, Reservations

MODELS: dict[str, Any] = {"record": Record(), "register": EpochRegister(), "reservations": Reservations()}


def ok(client: str, call: Hashable, answer: Hashable, begun_s: float, ended_s: float, key: str = "x") -> Operation:
    return Operation(client, key, call, begun_s, Outcome.OK, answer, ended_s)


def unknown(client: str, call: Hashable, begun_s: float) -> Operation:
    return Operation(client, "x", call, begun_s, Outcome.INFO)


def allowed_by_every_order(model: Any, operations: Sequence[Operation]) -> bool:
    """By trying every order of every choice: slow, and too plain to be wrong."""
    must = [each for each in operations if each.outcome is Outcome.OK]
    may = [each for each in operations if each.outcome is Outcome.INFO]
    for number in range(1 << len(may)):
        chosen = must + [each for at, each in enumerate(may) if number >> at & 1]
        if any(_is_allowed(model, order) for order in permutations(chosen)):
            return True
    return False


def _is_allowed(model: Any, order: Sequence[Operation]) -> bool:
    state = model.initial
    for at, operation in enumerate(order):
        if any(later.outcome is Outcome.OK and later.ended_s < operation.begun_s for later in order[at + 1 :]):
            return False
        state, answer = model.apply(state, operation.call)
        if operation.outcome is Outcome.OK and answer != operation.answer:
            return False
    return True


def test_a_read_after_a_write_has_it() -> None:
    good = [ok("a", ("put", 1), True, 0, 1), ok("b", ("get",), 1, 2, 3)]
    assert check(Record(), good).judgement is Judgement.LINEARIZABLE
    stale = [good[0], ok("b", ("get",), None, 2, 3)]
    verdict = check(Record(), stale)
    assert verdict.judgement is Judgement.NOT_LINEARIZABLE
    assert "x is not linearizable" in str(verdict)
    assert "b: x ('get',) -> None" in str(verdict)


def test_calls_at_once_may_be_in_either_order_but_not_in_both() -> None:
    writes = [ok("a", ("put", 1), True, 0, 10), ok("b", ("put", 2), True, 0, 10)]
    for seen in (1, 2):
        assert check(Record(), [*writes, ok("c", ("get",), seen, 11, 12)])
    both = [*writes, ok("c", ("get",), 1, 11, 12), ok("c", ("get",), 2, 13, 14)]
    assert not check(Record(), both)


def test_a_value_that_was_seen_is_not_unseen_again() -> None:
    write = ok("a", ("put", 1), True, 0, 10)
    assert check(Record(), [write, ok("b", ("get",), None, 1, 2), ok("c", ("get",), 1, 3, 4)])
    assert not check(Record(), [write, ok("b", ("get",), 1, 1, 2), ok("c", ("get",), None, 3, 4)])


def test_an_unknown_call_may_take_effect_late_or_never_but_not_before_its_beginning() -> None:
    lost = unknown("a", ("put", 1), 5)
    assert check(Record(), [lost, ok("b", ("get",), None, 6, 7)])
    assert check(Record(), [lost, ok("b", ("get",), None, 6, 7), ok("b", ("get",), 1, 800, 900)])
    assert not check(Record(), [lost, ok("b", ("get",), 1, 1, 2)])
    assert not check(Record(), [lost, ok("b", ("get",), 1, 6, 7), ok("b", ("get",), None, 8, 9)])


def test_a_call_that_failed_did_nothing() -> None:
    failed = Operation("a", "x", ("put", 1), 0, Outcome.FAIL)
    assert check(Record(), [failed, ok("b", ("get",), None, 6, 7)])
    assert not check(Record(), [failed, ok("b", ("get",), 1, 6, 7)])


def test_two_claims_of_one_epoch_are_not_both_granted() -> None:
    first, second = ok("a", ("claim", "a", 3), True, 0, 10), ok("b", ("claim", "b", 3), True, 1, 9)
    before = [ok("z", ("claim", "z", epoch), True, epoch - 4, epoch - 3.5) for epoch in range(3)]
    assert check(EpochRegister(), [*before, first])
    assert check(EpochRegister(), [*before, first, replace(second, answer=False)])
    assert not check(EpochRegister(), [*before, first, second])


def test_a_call_that_ends_when_another_begins_may_be_before_or_after_it() -> None:
    assert check(Record(), [ok("a", ("put", 1), True, 0, 5), ok("b", ("get",), None, 5, 6)])


def test_keys_are_judged_apart_and_the_bad_one_is_named() -> None:
    good = ok("a", ("put", 1), True, 0, 1, key="good")
    bad = ok("a", ("get",), 7, 2, 3, key="bad")
    assert check(Record(), [good, ok("b", ("get",), 1, 2, 3, key="good")])
    verdict = check(Record(), [good, bad])
    assert (verdict.judgement, verdict.key) == (Judgement.NOT_LINEARIZABLE, "bad")


def test_a_search_that_would_never_end_says_so() -> None:
    # Twenty writes of which nobody knows, and a value that none of them brings: every choice has to be looked at.
    lost = [unknown(f"a{number}", ("put", number), 0) for number in range(20)]
    verdict = check(Record(), [*lost, ok("b", ("get",), 99, 50, 51)], most_steps=5000)
    assert verdict.judgement is Judgement.UNDECIDED
    assert not verdict
    assert verdict.steps == 5001


def test_a_bad_key_is_told_though_another_is_undecided() -> None:
    hard = [replace(unknown(f"a{n}", ("put", n), 0), key="a-hard") for n in range(20)]
    bad = ok("a", ("get",), 7, 2, 3, key="bad")
    verdict = check(Record(), [*hard, ok("b", ("get",), 99, 50, 51, key="a-hard"), bad], most_steps=3000)
    assert (verdict.judgement, verdict.key) == (Judgement.NOT_LINEARIZABLE, "bad")


def test_a_history_is_recorded_by_what_clients_see() -> None:
    history = History()
    history.invoke("a", "x", ("put", 1), 0)
    with pytest.raises(ValueError, match="a calls while its last call is under way"):
        history.invoke("a", "x", ("put", 2), 0.5)
    history.invoke("b", "x", ("get",), 1)
    history.ok("b", 1, 2)
    history.info("a")
    history.invoke("b", "x", ("put", 9), 3)
    history.fail("b", 4)
    history.invoke("b", "x", ("get",), 5)
    outcomes = [each.outcome for each in history.operations]
    assert outcomes == [Outcome.INFO, Outcome.OK, Outcome.FAIL, Outcome.INFO]
    assert check(Record(), history.operations)


# --- random histories


def random_call(name: str, chance: random.Random, client: str) -> Hashable:
    number = chance.randrange(1, 4)
    if name == "record":
        return chance.choice([("get",), ("put", number), ("remove",), ("swap", chance.randrange(1, 4), number)])
    if name == "register":
        return chance.choice([("read",), ("claim", client, chance.randrange(4))])
    kind = chance.choice([1, 5, 7])
    return chance.choice(
        [
            ("keys",),
            ("reservation",),
            ("write", client),
            ("register and ignore", client, number),
            ("register", client, 0, number),
            ("register", client, number, 0),
            ("reserve", client, number, kind),
            ("release", client, number, kind),
            ("preempt", client, number, chance.randrange(1, 4), kind),
            ("clear", client, number),
        ]
    )


def linearizable_history(
    name: str, chance: random.Random, clients: int, calls: int, unknown_part: float = 0.12
) -> list[Operation]:
    """A run on one object: each call takes effect at a moment of its own between its beginning and its end."""
    plan = []
    for number in range(clients):
        now_s = chance.random()
        for _ in range(calls // clients):
            begun_s = now_s + chance.expovariate(2)
            moment_s = begun_s + chance.expovariate(1)
            now_s = moment_s + chance.expovariate(1)
            plan.append((moment_s, begun_s, now_s, f"c{number}"))
    state = MODELS[name].initial
    history = []
    for _, begun_s, ended_s, client in sorted(plan):
        call = random_call(name, chance, client)
        fate = chance.random()
        if fate < unknown_part / 2:
            history.append(Operation(client, "x", call, begun_s, Outcome.INFO))
            continue
        state, answer = MODELS[name].apply(state, call)
        if fate < unknown_part:
            history.append(Operation(client, "x", call, begun_s, Outcome.INFO))
        else:
            history.append(ok(client, call, answer, begun_s, ended_s))
    chance.shuffle(history)
    return history


def with_another_answer(chance: random.Random, history: list[Operation]) -> list[Operation]:
    """The same with one answer changed: for another of its kind, or one that nobody would give."""
    at = chance.choice([n for n, each in enumerate(history) if each.outcome is Outcome.OK])
    was = history[at].answer
    if isinstance(was, bool):
        other: Hashable = not was
    elif was in (GOOD, CONFLICT):
        other = CONFLICT if was == GOOD else GOOD
    else:
        others = [each.answer for each in history if each.outcome is Outcome.OK and each.answer != was]
        other = chance.choice([*others, 77])
    return [*history[:at], replace(history[at], answer=other), *history[at + 1 :]]


@pytest.mark.parametrize("name", MODELS)
def test_every_run_of_one_object_is_linearizable(name: str) -> None:
    for seed in range(60):
        history = linearizable_history(name, random.Random(seed), clients=5, calls=100)
        verdict = check(MODELS[name], history, most_steps=200_000)
        assert verdict, f"seed {seed}: {verdict}"


@pytest.mark.parametrize("name", MODELS)
def test_small_histories_are_judged_as_by_trying_every_order(name: str) -> None:
    judged = {True: 0, False: 0}
    for seed in range(250):
        chance = random.Random(seed)
        history = linearizable_history(name, chance, clients=3, calls=6)
        assert check(MODELS[name], history), f"seed {seed}"
        if not any(each.outcome is Outcome.OK for each in history):
            continue
        changed = with_another_answer(chance, history)
        expected = allowed_by_every_order(MODELS[name], changed)
        verdict = check(MODELS[name], changed)
        assert bool(verdict) == expected, f"seed {seed}: {verdict}"
        judged[expected] += 1
    assert min(judged.values()) >= 2, judged


def test_long_histories_with_one_wrong_answer_are_found_wrong() -> None:
    found = 0
    for seed in range(20):
        chance = random.Random(seed)
        history = linearizable_history("record", chance, clients=4, calls=400, unknown_part=0.02)
        reads = [n for n, each in enumerate(history) if each.call == ("get",) and each.outcome is Outcome.OK]
        at = chance.choice(reads)
        history[at] = replace(history[at], answer="never written")
        found += check(Record(), history).judgement is Judgement.NOT_LINEARIZABLE
    assert found == 20


def test_an_operation_is_told_in_a_line() -> None:
    told = str(ok("a", ("put", 1), True, 0.5, 1.25))
    assert told == "0.500000-1.250000 a: x ('put', 1) -> True"
    assert str(unknown("a", ("get",), 2)) == "2.000000-? a: x ('get',) (info)"
    assert unknown("a", ("get",), 2).ended_s == FOR_EVER

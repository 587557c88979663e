"""Looks for an order of a history's calls that a sequential object could have seen. PURE.

The search is that of Wing and Gong (1993), with Lowe's memory (2017): calls are tried one after another, each at the
earliest place that it can have; where none fits any more, the last is taken back. A pair of (state, calls placed)
that was met before is not looked into again, for what follows depends on nothing else. Objects of different keys are
looked at apart, for a history is linearizable where it is so for each object (locality). Unknown calls may be placed
anywhere after their beginning, or not at all; each doubles the work at worst, so the search has a bound and says
"undecided" when it has reached it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

from tests.linearizability.history import Operation, Outcome, by_key

MOST_STEPS: Final = 2_000_000
"""Steps of the search for one key: some ten seconds, and some hundred MiB at most."""

State = TypeVar("State", bound=Hashable)


class Model(Protocol[State]):
    """A sequential object."""

    @property
    def initial(self) -> State:
        """Its state before the first call."""
        ...

    def apply(self, state: State, call: Hashable) -> tuple[State, Hashable]:
        """Its state after a call, and its answer."""
        ...


class Judgement(Enum):
    """Of a history."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    Args:
        judgement: of all keys: of several that are not linearizable, or undecided, the first.
        key: the object in question; empty where all is well.
        steps: how many the search of it took; of all keys where all is well.
        order: as many of its calls as could be put in order, at most.
        stuck: the calls one of which would have had to be next.
    """

    judgement: Judgement
    key: str = ""
    steps: int = 0
    order: tuple[Operation, ...] = ()
    stuck: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return self.judgement is Judgement.LINEARIZABLE

    def __str__(self) -> str:
        if self:
            return f"linearizable, after {self.steps} steps"
        lines = [
            f"{self.key} is {self.judgement.value}, after {self.steps} steps; {len(self.order)} calls in order, last"
        ]
        lines += [f"  {operation}" for operation in self.order[-10:]]
        lines += ["and none of these can be next:", *(f"  {operation}" for operation in self.stuck[:20])]
        return "\n".join(lines)


def check(model: Model[State], operations: Iterable[Operation], *, most_steps: int = MOST_STEPS) -> Verdict:
    """Judge a history, key by key.

    Args:
        model: the object, the same for every key.
        operations: in any order.
        most_steps: the bound of the search for each key.
    """
    steps = 0
    undecided: Verdict | None = None
    for key, part in sorted(by_key(operations).items()):
        verdict = _Search(model, key, part, most_steps).run()
        steps += verdict.steps
        if verdict.judgement is Judgement.NOT_LINEARIZABLE:
            return verdict
        if undecided is None and not verdict:
            undecided = verdict
    return Verdict(Judgement.LINEARIZABLE, steps=steps) if undecided is None else undecided


class _Search(Generic[State]):
    """The search for one key: a list of the ends and beginnings of calls, out of which those that are placed are taken.

    Event 2n is the beginning of call n, and 2n + 1 its end, which a call of unknown outcome has not. `_next` and
    `_before` link them in the order of time; the place behind the last is both ends of the list.
    """

    def __init__(self, model: Model[State], key: str, operations: Sequence[Operation], most_steps: int) -> None:
        self._model = model
        self._key = key
        self._operations = [each for each in operations if each.outcome is not Outcome.FAIL]
        self._must = [each.outcome is Outcome.OK for each in self._operations]
        self._most_steps = most_steps
        moments = []
        for number, operation in enumerate(self._operations):
            moments.append((operation.begun_s, 0, 2 * number))
            if self._must[number]:
                # A call that begins when another ends is at the same time as that: the clock can not tell.
                moments.append((operation.ended_s, 1, 2 * number + 1))
        self._edge = 2 * len(self._operations)
        self._next = [0] * (self._edge + 1)
        self._before = [0] * (self._edge + 1)
        last = self._edge
        for _, _, event in sorted(moments):
            self._next[last], self._before[event] = event, last
            last = event
        self._next[last], self._before[self._edge] = self._edge, last

    def run(self) -> Verdict:
        """Search."""
        state = self._model.initial
        placed, left, steps = 0, sum(self._must), 0
        met: set[tuple[int, State]] = set()
        path: list[tuple[int, State]] = []
        longest: list[int] = []
        event = self._next[self._edge]
        while left:
            if event % 2 or event == self._edge:
                # A call that is not placed ended here: what was placed last was wrong.
                if not path:
                    return self._failed(Judgement.NOT_LINEARIZABLE, steps, longest)
                number, state = path.pop()
                placed ^= 1 << number
                left += self._must[number]
                self._put_back(number)
                event = self._next[2 * number]
                continue
            steps += 1
            if steps > self._most_steps:
                return self._failed(Judgement.UNDECIDED, steps, longest)
            number = event // 2
            fits, after = self._after(number, state)
            if fits and (now := (placed | 1 << number, after)) not in met:
                met.add(now)
                path.append((number, state))
                placed, state = now
                left -= self._must[number]
                self._take_out(number)
                if len(path) > len(longest):
                    longest = [each for each, _ in path]
                event = self._next[self._edge]
            else:
                event = self._next[event]
        return Verdict(Judgement.LINEARIZABLE, self._key, steps)

    def _after(self, number: int, state: State) -> tuple[bool, State]:
        """Whether a call can be next, and the state after it."""
        operation = self._operations[number]
        after, answer = self._model.apply(state, operation.call)
        # A call that nobody knows the answer of, and that changes nothing, can be left out.
        return (answer == operation.answer if self._must[number] else after != state), after

    def _take_out(self, number: int) -> None:
        for event in (2 * number, 2 * number + 1)[: 1 + self._must[number]]:
            self._next[self._before[event]] = self._next[event]
            self._before[self._next[event]] = self._before[event]

    def _put_back(self, number: int) -> None:
        for event in (2 * number + 1, 2 * number)[1 - self._must[number] :]:
            self._next[self._before[event]] = event
            self._before[self._next[event]] = event

    def _failed(self, judgement: Judgement, steps: int, longest: list[int]) -> Verdict:
        order = [self._operations[number] for number in longest]
        others = [each for number, each in enumerate(self._operations) if number not in set(longest)]
        first_end_s = min((each.ended_s for each in others if each.outcome is Outcome.OK), default=0.0)
        stuck = [each for each in others if each.begun_s <= first_end_s]
        return Verdict(judgement, self._key, steps, tuple(order), tuple(stuck))

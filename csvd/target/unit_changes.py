"""The changes of one logical unit at its coordinator: each makes the next record, which is kept, and pushed.

They are decided one after the other, in memory. All that wait at one time share one write of the record, and one push
to each node: it has the last record, and the effects of all of them. A change is answered when its record is durable,
and each node refuses by it, or is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from csvd.cluster.bell import spawn
from csvd.cluster.coordination.asking import AskKey
from csvd.cluster.coordination.faces import Json, Office
from csvd.cluster.errors import CommandRefused
from csvd.scsi.range_locks import RangeLocks
from csvd.scsi.reservation_codes import encode_condition
from csvd.scsi.reservations import ReservationConflict
from csvd.scsi.sense import Asc, CheckCondition, illegal_request
from csvd.scsi.unit_record import RESERVATIONS, Effect, UnitRecord

SERVICE: Final = "units"
RECORDS: Final = f"{SERVICE}/"
MOST_PUSHES: Final = 1
"""Pushes of one logical unit that are under way before the next changes are decided. The more there are, the fewer
changes share one."""

Make: TypeAlias = Callable[[UnitRecord], tuple[UnitRecord, Effect, Json]]
"""Gives the next record, the effect of the change, and the answer. Gives the same record where nothing changes. Raises
ReservationConflict or CheckCondition."""


@dataclass(slots=True, eq=False)
class _Change:
    """A change that is asked for.

    Args:
        ask: whose answer is kept with it.
        over: fires with the answer.
    """

    make: Make
    ask: AskKey | None
    over: Deferred[Json] = field(default_factory=Deferred)


_Answers: TypeAlias = list[tuple[_Change, Json]]


@dataclass(slots=True)
class _Decided:
    """What changes come to, one after the other.

    Args:
        effects: of those that change something.
        kept: their answers.
        refused: those that can not be made, with their answers.
        made, unchanged: those that could, and whether they change something.
    """

    record: UnitRecord
    effects: list[Effect] = field(default_factory=list)
    kept: dict[AskKey, Json] = field(default_factory=dict)
    refused: _Answers = field(default_factory=list)
    made: _Answers = field(default_factory=list)
    unchanged: _Answers = field(default_factory=list)

    def add(self, change: _Change) -> None:
        """The next one."""
        try:
            record, effect, answer = change.make(self.record)
        except ReservationConflict:
            self.refused.append((change, {"conflict": True}))
        except CheckCondition as condition:
            self.refused.append((change, {"condition": encode_condition(condition)}))
        except Exception:  # noqa: BLE001 - told to who asked for it; the others' changes are none the worse
            _end([change], Failure())
        else:
            if record is self.record:
                self.unchanged.append((change, answer))
                return
            self.record = record
            self.effects.append(effect)
            self.made.append((change, answer))
            if change.ask is not None:
                self.kept[change.ask] = answer


class CoordinatedUnit:
    """A logical unit, in one office.

    Args:
        record: what is kept of it.
        effects: those of changes that perhaps not all nodes have heard of.

    Attributes:
        nodes: which export it.
        turn: of who makes the next record.
        locks: the holds.
    """

    def __init__(self, naa: str, record: UnitRecord | None = None, effects: Sequence[Effect] = ()) -> None:
        self._naa = naa
        self.record = record or UnitRecord()
        self.effects = tuple(effects)
        self.nodes: set[str] = set()
        self.turn = DeferredLock()
        self.locks = RangeLocks()
        self._waiting: list[_Change] = []
        self._is_deciding = False
        self._pushes: dict[Deferred[None], bool] = {}
        """Those under way, each with whether nodes wait for commands before they answer it."""

    async def change(self, office: Office, make: Make, ask: AskKey | None) -> Json:
        """Make a change, together with the others that wait; gives the answer when all nodes act by it.

        Raises:
            OfficeOver, OutcomeUnknown: the office is over.
        """
        change = _Change(make, ask)
        self._waiting.append(change)
        if not self._is_deciding:
            self._is_deciding = True
            spawn(self._decide_waiting(office), "the changes of a logical unit")
        return await change.over

    async def keep(
        self, office: Office, record: UnitRecord, effects: Sequence[Effect], answers: Mapping[AskKey, Json]
    ) -> CheckCondition | None:
        """Keep a record durably; gives why it can not be kept. For who has the turn.

        Raises:
            OfficeOver, OutcomeUnknown: the office is over.
        """
        code = {**record.to_json(), "effects": [each.to_json() for each in (*self.effects, *effects)]}
        try:
            await office.keep({RECORDS + self._naa: code}, answers=answers)
        except CommandRefused:
            return illegal_request(Asc.INSUFFICIENT_REGISTRATION_RESOURCES)
        # Not those that were written: of some of them the nodes have heard meanwhile.
        self.record, self.effects = record, (*self.effects, *effects)
        return None

    def begin_push(self, office: Office, effects: Sequence[Effect]) -> Deferred[None]:
        """Begin to have all nodes take over the record. For who has the turn: pushes stand in the order of the changes.

        Returns:
            Fires when they have; fails where the office is over before that.
        """
        pushing: Deferred[None] = Deferred.fromCoroutine(self.push(office, effects))
        # Who waits for all that was decided waits for this one, too.
        done: Deferred[None] = Deferred()
        self._pushes[done] = any(each.kind != RESERVATIONS or each.aborts for each in effects)

        def over(result: Any) -> Any:
            del self._pushes[done]
            done.callback(None)
            return result

        return pushing.addBoth(over)

    async def push(self, office: Office, effects: Sequence[Effect]) -> None:
        """Have all nodes take over the record, with these effects."""
        params = {
            "naa": self._naa,
            "record": self.record.to_json(),
            "effects": [each.to_json() for each in effects],
        }
        await office.push(SERVICE, "record", params)
        heard = {each.version for each in effects}
        self.effects = tuple(each for each in self.effects if each.version not in heard)

    async def settled(self) -> None:
        """All that was decided until now has come to all nodes, or the office is over."""
        for push in list(self._pushes):
            await _after(push)

    async def _decide_waiting(self, office: Office) -> None:
        """Decide the changes that wait, until there are none: all that wait at one time together."""
        try:
            while self._waiting:
                # Where nodes wait for commands, these may wait for changes: they are not held up.
                while len(self._pushes) >= MOST_PUSHES and not any(self._pushes.values()):
                    await _after(next(iter(self._pushes)))
                await self._decide_at_once(office)
        finally:
            self._is_deciding = False

    async def _decide_at_once(self, office: Office) -> None:
        """Decide all changes that wait now."""
        await self.turn.acquire()
        changes, self._waiting = self._waiting, []
        try:
            if not await self._decide(office, changes):
                # Perhaps there is room for some of them.
                for change in changes:
                    if not change.over.called:
                        await self._decide(office, [change])
        finally:
            self.turn.release()

    async def _decide(self, office: Office, changes: Sequence[_Change]) -> bool:
        """Make changes, keep what comes of them all, and begin to push it; False where there is no room for all."""
        decided = _Decided(self.record)
        for change in changes:
            decided.add(change)
        if decided.made:
            try:
                refusal = await self.keep(office, decided.record, decided.effects, decided.kept)
            except Exception:  # noqa: BLE001 - told to all who asked for them
                _end(changes, Failure())
                return True
            if refusal is not None:
                if len(changes) > 1:
                    return False
                _answer([(change, {"condition": encode_condition(refusal)}) for change in changes])
                return True
            _answer_after(self.begin_push(office, decided.effects), decided.made)
        _answer(decided.refused)
        if decided.unchanged:
            _answer_after(Deferred.fromCoroutine(self.settled()), decided.unchanged)
        return True


def _answer(answers: _Answers) -> None:
    for change, answer in answers:
        change.over.callback(answer)


def _answer_after(work: Deferred[None], answers: _Answers) -> None:
    """Answer when it is done; with its error where it fails."""
    changes = [change for change, _ in answers]
    work.addCallbacks(lambda _: _answer(answers), lambda failure: _end(changes, failure))


def _end(changes: Sequence[_Change], failure: Failure) -> None:
    """Tell those who asked for changes, and have no answer yet, what is wrong."""
    for change in changes:
        if not change.over.called:
            change.over.errback(failure)


def _after(push: Deferred[None]) -> Deferred[None]:
    """Fires when a push is over, for one who waits among others."""
    waiter: Deferred[None] = Deferred()

    def over(result: Any) -> Any:
        waiter.callback(None)
        return result

    push.addBoth(over)
    return waiter

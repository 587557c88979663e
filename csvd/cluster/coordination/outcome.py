"""The outcome of something that is done once and asked for several times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.coordination.faces import Json
from csvd.cluster.errors import ClusterError
from csvd.errors import CsvdError

MAXIMUM_AHEAD: Final = 256

_log = Logger()


class Outcome:
    """A JSON object that comes once; whoever asks before it is there waits."""

    def __init__(self) -> None:
        self.value: Json | None = None
        self._waiting: list[Deferred[Json]] = []

    def set(self, value: Json) -> None:
        """It is there."""
        self.value = value
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(value)

    async def get(self) -> Json:
        """Wait for it."""
        if self.value is not None:
            return self.value
        waiting: Deferred[Json] = Deferred()
        self._waiting.append(waiting)
        return await waiting


class PushInput:
    """The pushes that come to a node in one session: begun once each, in the order of their numbers.

    Numbers begin with 1. What comes too early waits for what is missing; the sender sends all that it has no answer to.
    """

    def __init__(self) -> None:
        self._outcomes: dict[int, Outcome] = {}
        self._held: dict[int, Callable[[], Awaitable[Json]]] = {}
        self._next = 1

    async def take(self, number: int, oldest: int, begin: Callable[[], Awaitable[Json]]) -> Json:
        """Carry out a push, or wait for it.

        Args:
            number: of the push.
            oldest: the first that the sender has no answer to: what was before it is forgotten.
            begin: carries it out.

        Returns:
            `{"answer": …}`, `{"error": why}`, or `{"again": why}` where it is too early.
        """
        for old in [one for one in self._outcomes if one < oldest]:
            if self._outcomes[old].value is not None:
                del self._outcomes[old]
        outcome = self._outcomes.get(number)
        if outcome is None:
            if number < self._next:
                return {"error": "it was answered already"}
            if number >= self._next + MAXIMUM_AHEAD:
                return {"again": "many pushes before it have not come"}
            outcome = self._outcomes[number] = Outcome()
            self._held[number] = begin
            while self._next in self._held:
                following = self._next
                self._next += 1
                Deferred.fromCoroutine(_run(self._held.pop(following), self._outcomes[following]))
        return await outcome.get()


async def _run(begin: Callable[[], Awaitable[Json]], outcome: Outcome) -> None:
    try:
        outcome.set({"answer": await begin()})
    except CsvdError as error:
        outcome.set({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - logged, and the coordinator is told
        _log.failure("the handler of a push failed")
        outcome.set({"error": f"it failed inside: {type(error).__name__}"})


def checked(call: Json, /, **fields: type) -> None:
    """See that the parameters of a call are of their types; numbers are not negative, texts not long.

    Raises:
        ClusterError: they are not.
    """
    for name, kind in fields.items():
        value = call.get(name)
        is_good = type(value) is kind
        if is_good and isinstance(value, int):
            is_good = 0 <= value <= 2**62
        elif is_good and isinstance(value, str):
            is_good = len(value) <= 128
        if not is_good:
            raise ClusterError("a call of coordination is malformed", where=name)

"""The asks that come to a coordinator: each is carried out once in an office, and answered again when it is repeated.

The answer to an ask that was kept together with its change is known to the next coordinator, too. A node says with
each ask which others of it have no answer yet: the answers to all before it that are not among them are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.coordination.asking import CURRENT_ASK, AskKey
from csvd.cluster.coordination.faces import Json, OfficeOver, Service
from csvd.cluster.coordination.outcome import Outcome
from csvd.cluster.coordination.records import ANSWERS, Records
from csvd.cluster.errors import OutcomeUnknown
from csvd.errors import CsvdError

MAXIMUM_OF_A_NODE: Final = 256
"""Asks of one node that are under way, or whose answers are remembered."""

_log = Logger()


@dataclass(slots=True)
class _Heard:
    """What a node has said of its asks.

    Attributes:
        newest: the highest number that came.
        waiting: those up to it to which the node has no answer yet; to all others it has, or waits no longer.
    """

    incarnation: int
    newest: int = 0
    waiting: frozenset[int] = frozenset()

    def hear(self, number: int, waiting: frozenset[int]) -> None:
        """An ask came, with those that had no answer when it was sent."""
        if number > self.newest:
            self.waiting = frozenset(n for n in waiting if self.newest < n < number) | (self.waiting & waiting)
            self.waiting |= {number}
            self.newest = number
        else:
            # It was sent again, or has overtaken others: of later ones it may not know.
            self.waiting = frozenset(n for n in self.waiting if n >= number or n in waiting)

    def is_done_with(self, key: AskKey) -> bool:
        """Whether the node asks this no more."""
        if key.incarnation != self.incarnation:
            return key.incarnation < self.incarnation
        return key.number <= self.newest and key.number not in self.waiting


class Asked:
    """The asks of one office.

    Args:
        disk: its name.
        records: where answers are kept.
        services: by name.
        is_live: whether the office may act now.
    """

    def __init__(
        self, disk: str, records: Records, services: Mapping[str, Service], *, is_live: Callable[[], bool]
    ) -> None:
        self._disk = disk
        self._records = records
        self._services = services
        self._is_live = is_live
        self._outcomes: dict[str, dict[AskKey, Outcome]] = {}
        self._heard: dict[str, _Heard] = {}

    async def ask(self, key: AskKey, waiting: frozenset[int], service: str, method: str, params: Json) -> Json:
        """Carry out an ask, or wait for it.

        Args:
            waiting: the numbers to which the node had no answer yet when it sent this.

        Returns:
            `{"answer": …}`, `{"error": …}`, or `{"again": why, "is_begun": bool}` where the next office is to be asked.
        """
        outcomes = self._outcomes.setdefault(key.node, {})
        heard = self._heard.get(key.node)
        if heard is None or heard.incarnation < key.incarnation:
            heard = self._heard[key.node] = _Heard(key.incarnation)
        if not heard.is_done_with(key):
            heard.hear(key.number, waiting)
        for old in [one for one in outcomes if heard.is_done_with(one)]:
            if outcomes[old].value is not None:
                del outcomes[old]
        if heard.is_done_with(key):
            return {"again": "it came late: nobody waits for it any more", "is_begun": True}
        outcome = outcomes.get(key)
        if outcome is None:
            kept = self._records.table(ANSWERS).get(_text_of(key))
            if kept is not None:
                return {"answer": kept}
            if len(outcomes) >= MAXIMUM_OF_A_NODE:
                return {"again": f"{MAXIMUM_OF_A_NODE} asks of this node are under way"}
            outcome = outcomes[key] = Outcome()
            self._begin(key, outcome, service, method, params)
        told = await outcome.get()
        if "again" in told:
            outcomes.pop(key, None)
        return told if self._is_live() else {"again": "the office has ended", "is_begun": True}

    def changes_of(self, answers: Mapping[AskKey, Json]) -> dict[str, Any]:
        """What to keep so that asks that are being carried out are answered by this later, too; and what of earlier
        answers of their nodes goes, for they have them."""
        nodes = {key.node for key in answers}
        changes: dict[str, Any] = {}
        for text in self._records.table(ANSWERS):
            kept = _parsed(text)
            # Not what is merely unknown to this office: of an answer that the one before has kept, the ask may yet
            # come.
            if kept.node in nodes and self._heard[kept.node].is_done_with(kept):
                changes[text] = None
        return changes | {_text_of(key): answer for key, answer in answers.items()}

    def _begin(self, key: AskKey, outcome: Outcome, service: str, method: str, params: Json) -> None:
        asked = self._services.get(service)
        if asked is None:
            outcome.set({"error": {"kind": "ClusterError", "what": f"there is no service {service} at this disk"}})
            return
        token = CURRENT_ASK.set(key)
        try:
            Deferred.fromCoroutine(self._run(asked, key, outcome, method, params))
        finally:
            CURRENT_ASK.reset(token)

    async def _run(self, service: Service, key: AskKey, outcome: Outcome, method: str, params: Json) -> None:
        try:
            outcome.set({"answer": await service.asked(key.node, method, params)})
        except (OfficeOver, OutcomeUnknown) as error:
            outcome.set({"again": str(error), "is_begun": True})
        except CsvdError as error:
            outcome.set({"error": _told(error)})
        except Exception as error:  # noqa: BLE001 - logged, and the node is told
            _log.failure("{method} of {service} failed", method=method, service=service.name)
            inside = CsvdError(f"{method} failed inside", where=self._disk, why=type(error).__name__)
            outcome.set({"error": _told(inside)})


def _told(error: CsvdError) -> Json:
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "hint": error.hint,
    }


def _text_of(key: AskKey) -> str:
    return f"{key.node}/{key.incarnation}/{key.number}"


def _parsed(text: str) -> AskKey:
    node, incarnation, number = text.split("/")
    return AskKey(node, int(incarnation), int(number))

"""A logical unit that several nodes export as one, as one of the nodes has it. PURE.

What holds for the logical unit is decided by its coordinator alone (see `unit_record`): the node asks it for each
change, and takes over the records that it pushes. So a `ClusterUnit` fulfils `ReservationStore` by asking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from csvd.scsi import unit_record
from csvd.scsi.procedure import Answer, Request
from csvd.scsi.reservation_codes import (
    Json,
    decode_condition,
    decode_nexuses,
    decode_shared_state,
    encode_action,
)
from csvd.scsi.reservation_store import Listeners, Ports
from csvd.scsi.reservations import Action, Change, Registrant, ReservationConflict, State
from csvd.scsi.sense import Asc, CheckCondition, SenseKey
from csvd.scsi.unit_record import KEPT, MODE, RESERVATIONS, RESET, Effect, UnitRecord

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer
    from csvd.scsi.logical_unit import LogicalUnit
    from csvd.scsi.range_locks import Claim
    from csvd.scsi.task_set import TaskGate


class Holding(Protocol):
    """Ranges that are held on all nodes. `acquire` once, `release` once."""

    def acquire(self, granted: Callable[[], None]) -> None:
        """Ask for them; `granted` is called when no other node reads or writes there any more."""

    def release(self) -> None:
        """Give them back, or take back what was asked for."""


class Elsewhere(Protocol):
    """What a node does with the other nodes of a logical unit."""

    def ask(self, method: str, params: Json, answered: Callable[[Any], None]) -> None:
        """Ask the coordinator; calls back with its answer, or with a CheckCondition."""

    def holding(self, claims: Sequence[Claim]) -> Holding:
        """The claims of a command, of which some must hold on all nodes."""

    def bounded(self, done: Callable[[], None]) -> Callable[[], None]:
        """What calls back once: when it is called, or when an initiator that waits for it would soon give up."""

    def ended(self) -> None:
        """A target exports something no more."""

    def stalled(self) -> None:
        """A disk says that this node was fenced, while its lease is good: commands wait for a while."""


@dataclass(slots=True)
class Due:
    """What the glue does about records that were taken over, before it says so to the coordinator.

    Args:
        aborted: names of I_T nexuses of this node whose tasks are aborted.
        aborts_all: all tasks are aborted.
        must_flush: what was written is made durable.
    """

    aborted: list[str] = field(default_factory=list)
    aborts_all: bool = False
    must_flush: bool = False


class ClusterUnit(Listeners):
    """One logical unit by its NAA designator, for all targets of this node that export it.

    Attributes:
        record: what holds, as far as this node knows.
        servers: its device servers.
    """

    def __init__(self, naa: bytes, elsewhere: Elsewhere, gate: TaskGate) -> None:
        super().__init__()
        self.naa: Final = naa
        self.record = UnitRecord()
        self.servers: dict[DeviceServer, None] = {}
        self.elsewhere: Final = elsewhere
        self.gate: Final = gate
        self.state = State()
        self.legacy_holder: Registrant | None = None
        self.is_open = False
        self._units: dict[LogicalUnit, None] = {}
        self._reserving: Counter[Registrant] = Counter()
        """RESERVE(6) that the coordinator has not answered; that its command was aborted does not take it back."""
        self._ending: dict[Registrant, list[Callable[[], None]]] = {}
        """Nexuses that are lost, until the coordinator knows that their RESERVE(6) is over, and who waits for that."""

    # Who serves it

    def serve(self, unit: LogicalUnit) -> None:
        """A target exports it."""
        self._units[unit] = None
        unit.cluster = self
        unit.keeps = True
        unit.kept = dict(self.record.kept)
        unit.locks.cluster = self

    def add_server(self, server: DeviceServer) -> None:
        """A device server of it begins; nothing begins there while this is closed."""
        self.servers[server] = None
        server.task_set.gate = self.gate
        if not self.is_open:
            server.task_set.close()
        server.take_mode(self.record.current, self.record.saved)

    def end_server(self, server: DeviceServer) -> None:
        """A device server is gone."""
        self.servers.pop(server, None)
        self._units.pop(server.unit, None)
        self.elsewhere.ended()

    def serves(self, unit: LogicalUnit) -> bool:
        """Whether a target exports this logical unit."""
        return unit in self._units

    @property
    def is_served(self) -> bool:
        """Whether any target of this node exports it."""
        return bool(self.servers)

    def open(self) -> None:
        """Commands may begin; those that have waited do before this returns."""
        self.is_open = True
        for server in list(self.servers):
            if self.is_open:
                server.task_set.open()

    def close(self) -> None:
        """No command begins any more; all wait."""
        self.is_open = False
        for server in self.servers:
            server.task_set.close()

    # The store of the reservations

    def carry_out(self, unit: LogicalUnit, action: Action, *, aborts: bool = False) -> Generator[Request, Any, Change]:
        """See `ReservationStore.carry_out`."""
        answer = yield from self._ask("act", {"action": encode_action(action), "aborts": aborts})
        return Change(self.state, preempted=decode_nexuses(answer["preempted"]))

    def read(self) -> Generator[Request, Any, State]:
        """See `ReservationStore.read`."""
        answer = yield from self._ask("read", {})
        return decode_shared_state(answer["reservations"])

    def known_ports(self, names: Collection[str]) -> Generator[Request, Any, Ports]:
        """See `ReservationStore.known_ports`."""
        answer = yield from self._ask("ports", {"names": sorted(names)})
        return dict(answer["ports"])

    def reserve_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """See `ReservationStore.reserve_unit`."""
        if who in self._ending:
            # It was of an earlier nexus between these ports. Its end must not come behind this one's beginning.
            yield Answer(lambda answered: self._ending[who].append(partial(answered, None)))
        yield from self._ask("reserve", {"who": list(who)}, partial(self._reserves, who))

    def release_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """See `ReservationStore.release_unit`."""
        yield from self._ask("release", {"who": list(who)})

    def end_legacy(self, who: Registrant | None = None, done: Callable[[], None] | None = None) -> None:
        """See `ReservationStore.end_legacy`. A reset ends it at the coordinator by itself.

        Args:
            done: called when no node refuses anything by it any more; at once where nothing is held; and in any case
                before an initiator that waits for that would give up: then the coordinator hears of it later, for it
                is told until it has heard.
        """
        done = done or _nothing
        if who is None or not (who == self.legacy_holder or who in self._reserving or who in self._ending):
            done()
            return
        begins = who not in self._ending
        self._ending.setdefault(who, []).append(self.elsewhere.bounded(done))
        if begins:
            self._tell_end(who)

    def _tell_end(self, who: Registrant) -> None:
        """Tell the coordinator that a nexus is lost. What it still reserves must have been answered before, or its
        reservation would come behind its end."""
        if who in self._ending and who not in self._reserving:
            self._ask_for("end legacy", {"who": list(who)}, partial(self._end_is_known, who))

    def _end_is_known(self, who: Registrant) -> None:
        for done in self._ending.pop(who):
            done()

    def _reserves(self, who: Registrant, is_under_way: bool) -> None:
        self._reserving[who] += 1 if is_under_way else -1
        if not self._reserving[who]:
            del self._reserving[who]
            self._tell_end(who)

    # What else commands change

    def select_mode(self, values: Mapping[str, str], *, saves: bool, by: Registrant) -> Generator[Request, Any, None]:
        """Steps of MODE SELECT."""
        yield from self._ask("mode", {"values": dict(values), "saves": saves, "by": list(by)})

    def keep(self, name: str, value: Any, by: Registrant) -> Generator[Request, Any, None]:
        """Steps that keep a value of the logical unit, on all nodes; None forgets it."""
        yield from self._ask("keep", {"name": name, "value": value, "by": list(by)})

    def reset(self, done: Callable[[], None]) -> None:
        """LOGICAL UNIT RESET on all nodes, this one, too."""
        self._ask_for("reset", {}, done)

    def clear(self, by: Registrant, done: Callable[[], None]) -> None:
        """CLEAR TASK SET on all nodes."""
        self._ask_for("clear", {"by": list(by)}, done)

    def _ask(
        self, method: str, params: Json, under_way: Callable[[bool], None] | None = None
    ) -> Generator[Request, Any, Json]:
        """Steps that ask the coordinator.

        Args:
            under_way: told when that begins and ends, also where the command is aborted between.
        """
        asked = {"naa": self.naa.hex(), **params}

        def ask(answered: Callable[[Any], None]) -> None:
            def ended(answer: Any) -> None:
                if under_way is not None:
                    under_way(False)
                answered(answer)

            if under_way is not None:
                under_way(True)
            self.elsewhere.ask(method, asked, ended)

        answer = yield Answer(ask)
        if answer.get("conflict"):
            raise ReservationConflict("another nexus has reserved it, or is registered")
        if answer.get("condition"):
            raise decode_condition(answer["condition"])
        return dict(answer)

    def _ask_for(self, method: str, params: Json, done: Callable[[], None] | None = None) -> None:
        def answered(_: Any) -> None:
            if done is not None:
                done()

        self.elsewhere.ask(method, {"naa": self.naa.hex(), **params}, answered)

    # What the coordinator pushes

    def take(self, record: UnitRecord, effects: Iterable[Effect] = ()) -> Due:
        """Take over a record, where it is newer: from now on the guards refuse by it, and unit attention conditions
        are established.

        Args:
            effects: of the last changes, in their order. Those that this node knows already are left out; where some
                are missing, the difference of the records is told.
        """
        before = self.record
        due = Due()
        if record.version <= before.version:
            return due
        missed = [effect for effect in effects if effect.version > before.version]
        whole = [effect.version for effect in missed] == list(range(before.version + 1, record.version + 1))
        self.record = record
        self.state, self.legacy_holder = record.reservations, record.legacy_holder
        if before.power and before.power != record.power:
            self._establish(Asc.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED, None)
            due.aborts_all = True
        elif before.power and not whole:
            missed = _difference(before, record)
        elif not before.power:
            missed = []
        self._tell(())
        for unit in self._units:
            unit.kept = dict(record.kept)
        mode_changed = False
        if (record.current, record.saved) != (before.current, before.saved):
            for server in self.servers:
                changed, must_flush = server.take_mode(record.current, record.saved)
                mode_changed |= changed
                due.must_flush |= must_flush
        for effect in missed:
            if effect.kind != unit_record.MODE or mode_changed:
                self._take_effect(effect, due)
        return due

    def _take_effect(self, effect: Effect, due: Due) -> None:
        match effect.kind:
            case unit_record.RESERVATIONS:
                self._tell(effect.attentions)
                if effect.aborts:
                    names = self.nexus_names(effect.preempted)
                    due.aborted += names
                    for server in self.servers:
                        for name in names:
                            server.medium_state.allow_removal(name)
            case unit_record.MODE:
                self._establish(Asc.MODE_PARAMETERS_CHANGED, effect.by)
            case unit_record.KEPT:
                self._establish(Asc.DEVICE_IDENTIFIER_CHANGED, effect.by)
            case unit_record.RESET:
                for server in self.servers:
                    server.reset()
                self._establish(Asc.BUS_DEVICE_RESET_FUNCTION_OCCURRED, None)
                due.aborts_all = True
            case unit_record.CLEAR:
                for server in self.servers:
                    # With TAS the commands are answered instead (SAM-5 5.3.1).
                    if not server.mode.task_aborted_status:
                        server.establish_but(Asc.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, effect.by)
                due.aborts_all = True

    def _establish(self, asc: Asc, by: Registrant | None) -> None:
        for server in self.servers:
            server.establish_but(asc, by)


def _difference(before: UnitRecord, after: UnitRecord) -> list[Effect]:
    """The effects of changes that a node has missed, as far as their sum shows them."""
    old, new = before.reservations, after.reservations
    gone = tuple(who for who in old.keys if who not in new.keys)
    attentions = tuple((who, Asc.REGISTRATIONS_PREEMPTED) for who in gone)
    if old.type is not None and (old.type, old.holder) != (new.type, new.holder):
        attentions += tuple((who, Asc.RESERVATIONS_RELEASED) for who in old.keys if who in new.keys)
    if before.legacy_holder not in (None, after.legacy_holder):
        assert before.legacy_holder is not None
        attentions += ((before.legacy_holder, Asc.RESERVATIONS_RELEASED),)
    # Whether their tasks were to be aborted is not known. They wait at the gate, and will conflict.
    effects = [Effect(RESERVATIONS, after.version, attentions, gone)]
    if before.current != after.current:
        effects.append(Effect(MODE, after.version))
    if before.kept != after.kept:
        effects.append(Effect(KEPT, after.version))
    if before.resets != after.resets:
        effects.append(Effect(RESET, after.version))
    return effects


def _nothing() -> None:
    return None


def not_in_time() -> CheckCondition:
    """The coordinator was not reached for so long that whether it was done is not known."""
    return CheckCondition(SenseKey.ABORTED_COMMAND, Asc.LOGICAL_UNIT_COMMUNICATION_TIME_OUT)

"""Where the reservations of a logical unit are: what the device servers ask, and the store of one node.

The commands and the guard know `ReservationStore` only. So a store that a cluster shares can take the place of
`LocalReservations`, whose changes are as indivisible, by other means.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from csvd.errors import ConfigError
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.procedure import DiskFault, Keep, Request, Until
from csvd.scsi.reservation_codes import SenselessCode, decode_state, encode_state
from csvd.scsi.reservations import Action, Change, Registrant, ReservationConflict, State
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, illegal_request
from csvd.scsi.turn import Turn

KEPT_NAME: Final = "reservations"

Attentions: TypeAlias = tuple[tuple[Registrant, Asc], ...]
Ports: TypeAlias = Mapping[str, Sequence[str]]


class Listener(Protocol):
    """A device server that must know what changes."""

    def reservations_changed(self, attentions: Attentions) -> None:
        """Who may do what is another one now; these unit attention conditions are to be established."""

    def nexus_names(self, who: Iterable[Registrant]) -> list[str]:
        """The names of the open I_T nexuses among these."""

    def initiator_ports(self, names: Collection[str]) -> list[tuple[str, str]]:
        """The initiator ports of open I_T nexuses whose initiators have these iSCSI names, in lower case, each behind
        the name."""


class ReservationStore(Protocol):
    """The reservations of one logical unit, whichever targets and ports reach it."""

    @property
    def state(self) -> State:
        """The persistent reservation and the registrations at present."""

    @property
    def legacy_holder(self) -> Registrant | None:
        """Who holds the reservation that RESERVE(6) made (SPC-2)."""

    def carry_out(self, unit: LogicalUnit, action: Action, *, aborts: bool = False) -> Generator[Request, Any, Change]:
        """Steps that do a service action as one: it is in force, and durable where it must be, when they end.

        Args:
            aborts: the tasks of those that are preempted are to be aborted: here by the caller, and on other nodes
                before these steps end.

        Raises:
            ReservationConflict, CheckCondition: see `Action.apply`. Also where what must outlive a loss of power
                could not be kept; then nothing has changed.
        """

    def read(self) -> Generator[Request, Any, State]:
        """Steps that give `state` as PERSISTENT RESERVE IN tells it: where nodes share it, nobody reads an older one
        afterwards."""

    def reserve_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """Steps of RESERVE(6).

        Raises:
            ReservationConflict: another nexus has it, or reservations are persistent.
        """

    def release_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """Steps of RELEASE(6); raises as `reserve_unit` does where reservations are persistent."""

    def end_legacy(self, who: Registrant | None = None) -> None:
        """The reservation that RESERVE(6) made ends: by a reset, or for this nexus, which is lost."""

    def nexus_names(self, who: Iterable[Registrant]) -> list[str]:
        """The names of the open I_T nexuses among these, of all targets."""

    def known_ports(self, names: Collection[str]) -> Generator[Request, Any, Ports]:
        """Steps that find the initiator ports of initiators, by their iSCSI names in lower case: those that have a
        session with any target, at any node, that exports the logical unit."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener of changes from now on; call what is returned to end that."""


class Listeners:
    """The listeners of a store: what every `ReservationStore` has of its own device servers."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}

    def nexus_names(self, who: Iterable[Registrant]) -> list[str]:
        """See `ReservationStore.nexus_names`."""
        nexuses = tuple(who)
        return [name for listener in self._listeners for name in listener.nexus_names(nexuses)]

    def ports_here(self, names: Collection[str]) -> Ports:
        """The initiator ports of these initiators that have a session with any target of this node."""
        found: dict[str, list[str]] = {}
        for listener in self._listeners:
            for name, port in listener.initiator_ports(names):
                if port not in found.setdefault(name, []):
                    found[name].append(port)
        return found

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `ReservationStore.subscribe`."""
        self._listeners[listener] = None

        def end() -> None:
            self._listeners.pop(listener, None)

        return end

    def _tell(self, attentions: Attentions) -> None:
        for listener in list(self._listeners):
            listener.reservations_changed(attentions)


class LocalReservations(Listeners):
    """The reservations of a logical unit that this node alone exports.

    Args:
        unit: what was kept of it is taken over.

    Raises:
        ConfigError: what was kept makes no sense.
    """

    def __init__(self, unit: LogicalUnit) -> None:
        super().__init__()
        self.state = _kept_state(unit)
        self.legacy_holder: Registrant | None = None
        self._turn = Turn()

    def carry_out(self, unit: LogicalUnit, action: Action, *, aborts: bool = False) -> Generator[Request, Any, Change]:
        """See `ReservationStore.carry_out`."""
        try:
            yield Until(self._turn.take)
            if self.legacy_holder is not None:
                raise ReservationConflict("it is reserved by RESERVE")
            change = action.apply(self.state)
            kept = encode_state(change.state) if change.state.aptpl else None
            if unit.keeps and unit.kept.get(KEPT_NAME) != kept:
                try:
                    yield Keep(unit, KEPT_NAME, kept)
                except GeneratorExit:
                    # The command was aborted meanwhile. What is kept and what is in force stay the same.
                    if unit.kept.get(KEPT_NAME) == kept:
                        self._commit(change)
                    raise
                except DiskFault as fault:
                    raise _not_kept(fault) from fault
            self._commit(change)
        finally:
            self._turn.pass_on()
        return change

    def read(self) -> Generator[Request, Any, State]:
        """See `ReservationStore.read`."""
        yield from ()
        return self.state

    def known_ports(self, names: Collection[str]) -> Generator[Request, Any, Ports]:
        """See `ReservationStore.known_ports`."""
        yield from ()
        return self.ports_here(names)

    def _commit(self, change: Change) -> None:
        if change.state is not self.state:
            self.state = change.state
            self._tell(change.attentions)

    def reserve_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """See `ReservationStore.reserve_unit`."""
        try:
            yield Until(self._turn.take)
            if legacy_is_void(self.state, who):
                return
            if self.legacy_holder not in (None, who):
                raise ReservationConflict("another nexus has reserved it")
            if self.legacy_holder is None:
                self.legacy_holder = who
                self._tell(())
        finally:
            self._turn.pass_on()

    def release_unit(self, who: Registrant) -> Generator[Request, Any, None]:
        """See `ReservationStore.release_unit`."""
        try:
            yield Until(self._turn.take)
            if not legacy_is_void(self.state, who) and self.legacy_holder == who:
                self.end_legacy()
        finally:
            self._turn.pass_on()

    def end_legacy(self, who: Registrant | None = None) -> None:
        """See `ReservationStore.end_legacy`."""
        if self.legacy_holder is not None and who in (None, self.legacy_holder):
            self.legacy_holder = None
            self._tell(())


def legacy_is_void(state: State, who: Registrant) -> bool:
    """Whether RESERVE and RELEASE of this nexus are GOOD without effect (SPC-4 5.13.3).

    Raises:
        ReservationConflict: they conflict, for somebody is registered (SPC-2 5.5.1).
    """
    if not state.keys:
        return False
    if state.type is not None and state.admits(who):
        return True
    raise ReservationConflict("registrations are persistent here")


def _not_kept(fault: DiskFault) -> CheckCondition:
    """It is the state directory that failed, so no LBA, and nothing of the medium."""
    if fault.error_number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return illegal_request(Asc.INSUFFICIENT_REGISTRATION_RESOURCES)
    return CheckCondition(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE)


def _kept_state(unit: LogicalUnit) -> State:
    if KEPT_NAME not in unit.kept:
        return State()
    try:
        return decode_state(unit.kept[KEPT_NAME])
    except SenselessCode as error:
        raise ConfigError(
            "the kept reservations of a logical unit make no sense",
            why=error.why,
            hint="remove its file from the state directory to forget them",
        ) from error

"""The VM role of a node: the guests that it owns, from their record in the register to their process.

The register decides who may run a guest; a process runs here only after it said this node. A guest is created by a
record first and a process second. A stopped guest is started again only after a compare-and-set of (this node, epoch)
to (this node, epoch + 1), which proves that the record was still this node's. When the register names another owner,
its process here is ended and its image deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.errors import OutcomeUnknown
from csvd.errors import CsvdError
from csvd.vm.errors import GuestBusy, GuestEnded, GuestNotHere, VmError
from csvd.vm.files import GuestFiles, LocalState, Note
from csvd.vm.interfaces import Cluster, GuestDriver, GuestRecord, GuestVerification, RunInThread
from csvd.vm.spec import GuestSpec

SUBMIT_TIMEOUT_S: Final = 10.0
TELL_TRIES: Final = 6
"""How often a state is told when nobody answers; after that, the next change of the register has it told again."""
_ALIVE: Final = frozenset({LocalState.RUNNING, LocalState.PAUSED})
_INCOMING: Final = frozenset({LocalState.ARRIVING, LocalState.COMPLETE})

MakeDriver = Callable[[str, Path, GuestSpec], GuestDriver]


@dataclass(slots=True)
class LocalGuest:
    """A guest that has an image on this node.

    Args:
        epoch: of the ownership under which the image is written.
        operation: what is being done with it; empty when it is free.
        is_telling: the register is being told its state.
    """

    name: str
    spec: GuestSpec
    epoch: int
    image: Path
    state: LocalState = LocalState.STOPPED
    reason: str = ""
    driver: GuestDriver | None = None
    operation: str = ""
    is_telling: bool = False

    def note(self) -> Note:
        """What is written beside its image."""
        return Note(self.name, self.epoch, self.state, self.reason, str(self.image), self.spec.to_json())


class NodeGuests:
    """The guests of one node.

    Args:
        files: where images and notes are.
        make_driver: makes the driver of a guest's next run.
    """

    _log = Logger()

    def __init__(
        self, cluster: Cluster, files: GuestFiles, run_in_thread: RunInThread, *, make_driver: MakeDriver
    ) -> None:
        self._cluster = cluster
        self._files = files
        self._run_in_thread = run_in_thread
        self._make_driver = make_driver
        self._guests: dict[str, LocalGuest] = {}
        self._told_absent: set[tuple[str, int]] = set()
        self._unsubscribe: Callable[[], object] = lambda: None
        # Notes are written one after the other, so that the last state is the one that stays.
        self._notes = DeferredLock()

    async def begin(self) -> None:
        """Take up what an earlier run of the daemon left: its guests are stopped now. Raises ImageFileError."""
        await self._run_in_thread(self._files.make_directory)
        for note in await self._run_in_thread(self._files.read_notes):
            if note.name in self._guests:
                continue
            guest = LocalGuest(note.name, GuestSpec.from_json(note.spec), note.epoch, Path(note.image))
            state = note.state
            if state is LocalState.ARRIVING:
                # Not whole, so never acknowledged, so never the only copy.
                await self.forget(guest)
                continue
            guest.state = state if state is LocalState.COMPLETE else LocalState.STOPPED
            guest.reason = note.reason
            if state in _ALIVE:
                guest.reason = f"the daemon of {self._cluster.node} ended while the guest was {state.value}"
            self._guests[guest.name] = guest
        self._unsubscribe = self._cluster.on_change(self._register_changed)
        self._register_changed()

    async def close(self) -> None:
        """End every process; the images stay, and the guests can be started again."""
        self._unsubscribe()
        ending = [Deferred.fromCoroutine(self._shut_down(guest)) for guest in self._guests.values() if guest.driver]
        for success, failure in await DeferredList(ending, consumeErrors=True):
            if not success:
                self._log.failure("a guest did not end in good order", failure)

    async def _shut_down(self, guest: LocalGuest) -> None:
        assert guest.driver is not None
        state = guest.state
        if state in _ALIVE:
            guest.state = LocalState.STOPPED
            guest.reason = f"the daemon of {self._cluster.node} was stopped while the guest was {state.value}"
        await guest.driver.quit()
        await self.write_note(guest)

    # What people and the API ask for.

    async def create(self, name: str, spec: GuestSpec, *, paused: bool = False) -> dict[str, Any]:
        """Make a guest of this node and run it.

        Raises CommandRefused when the name is taken, OutcomeUnknown when the register did not answer (the guest may
        then turn up as stopped), VmError when it cannot be run (it is there then, stopped).
        """
        if name in self._guests and not await self._dropped_orphan(name):
            raise GuestBusy("this node holds an image of a guest of that name", where=f"guest {name}")
        guest = self._reserve(name, spec, "create")
        try:
            await self._run_in_thread(lambda: self._files.check_room(spec))
            answer = await self._submit("guest_create", name=name, owner=self._cluster.node, spec=spec.to_json())
        except BaseException:
            self._unreserve(guest)
            raise
        await self._boot_anew(guest, answer["epoch"], paused=paused)
        return await self.show(name)

    async def start(self, name: str, *, paused: bool = False) -> dict[str, Any]:
        """Run a stopped guest of this node again, from its image where there is one. Raises as ``create`` does."""
        record = self._own_record(name)
        guest = self._guests.get(name)
        if guest is None:
            guest = self._reserve(name, GuestSpec.from_json(record.spec), "start")
            try:
                epoch = await self._claim(record)
            except BaseException:
                self._unreserve(guest)
                raise
            await self._boot_anew(guest, epoch, paused=paused)
        else:
            with self.busy(guest, "start"):
                if guest.driver is not None and guest.driver.is_alive:
                    raise VmError("the guest is not stopped", where=f"guest {name}", why=f"it is {guest.state.value}")
                # The note must never be older than the claim: a copy that is only complete is not one that ran.
                await self.write_note(guest)
                guest.epoch = await self._claim(record)
                await self._boot(guest, paused=paused)
        return await self.show(name)

    async def _claim(self, record: GuestRecord) -> int:
        """Prove that the record is still this node's. Returns its new epoch. Raises ClusterError."""
        node = self._cluster.node
        answer = await self._submit("guest_move", name=record.name, owner=node, epoch=record.epoch, new_owner=node)
        return int(answer["epoch"])

    def _reserve(self, name: str, spec: GuestSpec, operation: str) -> LocalGuest:
        """Take the name on this node before anything is waited for, so that nobody else makes a second copy."""
        guest = LocalGuest(name, spec, 0, self._files.image_path(name, spec), operation=operation)
        self.hold(guest)
        return guest

    def _unreserve(self, guest: LocalGuest) -> None:
        if self._guests.get(guest.name) is guest:
            del self._guests[guest.name]

    async def _boot_anew(self, guest: LocalGuest, epoch: int, *, paused: bool) -> None:
        """Run a guest that has no image on this node; its name is reserved."""
        guest.epoch = epoch
        try:
            # The note comes first, so that an image without a note is one that nobody needs.
            await self.write_note(guest)
            await self._run_in_thread(lambda: self._files.create_image(guest.name, guest.spec))
            await self._boot(guest, paused=paused)
        finally:
            self.free(guest)

    async def _dropped_orphan(self, name: str) -> bool:
        """Delete an image whose guest the register does not know any more, certainly; say whether that was so."""
        guest = self._guests[name]
        is_alive = guest.driver is not None and guest.driver.is_alive
        if guest.operation or is_alive or self._cluster.register.guest(name) is not None:
            return False
        with self.busy(guest, "removal"):
            answer = await self._submit("guest_read", name=name)
            if answer.get("guest") is not None:
                return False
            await self.forget(guest)
        return True

    async def _boot(self, guest: LocalGuest, *, paused: bool) -> None:
        """Start its process, on a new image when it lost its own."""
        await self.write_note(guest)
        if not await self._run_in_thread(guest.image.exists):
            await self._run_in_thread(lambda: self._files.create_image(guest.name, guest.spec))
        try:
            await self.start_process(guest)
            if not paused:
                await self.live_driver(guest).cont()
        except VmError as error:
            if guest.driver is not None:
                await guest.driver.kill()
            self.changed(guest, LocalState.STOPPED, str(error))
            raise
        self.changed(guest, LocalState.PAUSED if paused else LocalState.RUNNING)

    async def stop(self, name: str) -> dict[str, Any]:
        """End a guest's process; its image stays, and it can be started again."""
        guest = self._own_guest(name)
        with self.busy(guest, "stop"):
            if guest.driver is None or not guest.driver.is_alive:
                raise VmError("the guest is stopped already", where=f"guest {name}", why=guest.reason)
            guest.state = LocalState.STOPPED
            await guest.driver.quit()
            self.changed(guest, LocalState.STOPPED, "stopped on request")
        return await self.show(name)

    async def pause(self, name: str) -> dict[str, Any]:
        """Have a guest execute nothing until ``resume``."""
        return await self._steered(name, "pause", lambda driver: driver.stop(), LocalState.PAUSED)

    async def resume(self, name: str) -> dict[str, Any]:
        """Let a paused guest execute again."""
        return await self._steered(name, "resume", lambda driver: driver.cont(), LocalState.RUNNING)

    async def _steered(
        self, name: str, operation: str, steer: Callable[[GuestDriver], Awaitable[object]], state: LocalState
    ) -> dict[str, Any]:
        guest = self._own_guest(name)
        with self.busy(guest, operation):
            await steer(self.live_driver(guest))
            self.changed(guest, state)
        return await self.show(name)

    async def remove(self, name: str) -> None:
        """Take a stopped guest out of the register and delete its image."""
        if name in self._guests and await self._dropped_orphan(name):
            return
        record = self._own_record(name)
        guest = self._guests.get(name)
        if guest is None:
            reserved = self._reserve(name, GuestSpec.from_json(record.spec), "remove")
            try:
                await self._submit("guest_remove", name=name, owner=self._cluster.node, epoch=record.epoch)
            finally:
                self._unreserve(reserved)
            return
        with self.busy(guest, "remove"):
            if guest.driver is not None and guest.driver.is_alive:
                raise VmError("a guest has to be stopped before it is removed", where=f"guest {name}")
            await self._submit("guest_remove", name=name, owner=self._cluster.node, epoch=record.epoch)
            await self.forget(guest)

    async def verify(self, name: str) -> GuestVerification:
        """Have a guest check every page of its working set."""
        guest = self._own_guest(name)
        if guest.state in _INCOMING:
            raise GuestBusy("the guest is still on its way to this node", where=f"guest {name}")
        return await self.live_driver(guest).verify()

    def list_guests(self) -> list[dict[str, Any]]:
        """All guests of the cluster; of this node's own what is known here without asking them."""
        return [self._described(name) for name in sorted({*self._cluster.register.guests, *self._guests})]

    async def show(self, name: str) -> dict[str, Any]:
        """One guest, with what it says of itself when it is alive here. Raises GuestNotHere when there is none."""
        description = self._described(name)
        guest = self._guests.get(name)
        if guest is not None and guest.driver is not None and guest.driver.is_alive and guest.state in _ALIVE:
            try:
                status = await guest.driver.query_status()
            except VmError as error:
                description["reason"] = str(error)
            else:
                description["counter"] = status.counter
                description["pages_rewritten"] = status.pages_rewritten
                description["process_id"] = guest.driver.process_id
        return description

    def _described(self, name: str) -> dict[str, Any]:
        record = self._cluster.register.guest(name)
        guest = self._guests.get(name)
        if record is None and guest is None:
            raise GuestNotHere("there is no such guest", where=f"guest {name}")
        is_owner = record is not None and record.owner == self._cluster.node
        state, reason = (record.state, "") if record is not None else ("unknown", "the register does not know it (yet)")
        if guest is not None:
            state, reason = guest.state.value, guest.reason
        elif is_owner:
            state, reason = LocalState.STOPPED.value, f"there is no image of it on {self._cluster.node}"
        return {
            "name": name,
            "owner": record.owner if record else None,
            "epoch": record.epoch if record else None,
            "state": state,
            "reason": reason,
            "operation": guest.operation if guest else "",
            "image": str(guest.image) if guest else None,
            "spec": dict(record.spec) if record else guest.spec.to_json() if guest else {},
        }

    # What follows is for this package: the operations above, and departure and arrival.

    def _own_record(self, name: str) -> GuestRecord:
        record = self._cluster.register.guest(name)
        if record is None:
            raise GuestNotHere("there is no such guest", where=f"guest {name}")
        if record.owner != self._cluster.node:
            raise GuestNotHere("another node owns the guest", where=f"guest {name}", why=f"it is on {record.owner}")
        return record

    def _own_guest(self, name: str) -> LocalGuest:
        self._own_record(name)
        guest = self._guests.get(name)
        if guest is None:
            raise VmError("the guest is stopped", where=f"guest {name}", why="it has no image on this node")
        return guest

    def owned(self, name: str) -> tuple[LocalGuest, GuestRecord]:
        """A guest that this node owns and holds, with its record. Raises GuestNotHere or VmError."""
        return self._own_guest(name), self._own_record(name)

    def held(self, name: str) -> LocalGuest | None:
        """The guest of that name of which there is an image here, whoever owns it."""
        return self._guests.get(name)

    def hold(self, guest: LocalGuest) -> None:
        """Know a guest from now on."""
        self._guests[guest.name] = guest

    def live_driver(self, guest: LocalGuest) -> GuestDriver:
        """The driver of a guest that has a process. Raises VmError when it is stopped."""
        if guest.driver is None or not guest.driver.is_alive:
            raise VmError("the guest is stopped", where=f"guest {guest.name}", why=guest.reason)
        return guest.driver

    @contextmanager
    def busy(self, guest: LocalGuest, operation: str) -> Iterator[None]:
        """One operation at a time. Raises GuestBusy."""
        self.take(guest, operation)
        try:
            yield
        finally:
            self.free(guest)

    def take(self, guest: LocalGuest, operation: str) -> None:
        """Begin an operation, which ``free`` ends. Raises GuestBusy."""
        if guest.operation:
            raise GuestBusy(f"no {operation} now", where=f"guest {guest.name}", why=f"{guest.operation} is under way")
        guest.operation = operation

    def free(self, guest: LocalGuest) -> None:
        """The operation is over; what the register said meanwhile holds now."""
        guest.operation = ""
        self._register_changed()

    async def start_process(self, guest: LocalGuest) -> None:
        """Give the guest a process, paused. Raises VmError."""
        driver = self._make_driver(guest.name, guest.image, guest.spec)
        guest.driver = driver
        await driver.start(paused=True)
        driver.when_ended().addCallback(lambda reason: self._process_ended(guest, driver, reason))

    def _process_ended(self, guest: LocalGuest, driver: GuestDriver, reason: GuestEnded) -> None:
        if guest.driver is driver and guest.state in _ALIVE:
            self._log.error("{reason}", reason=str(reason))
            self.changed(guest, LocalState.STOPPED, reason.why)

    def changed(self, guest: LocalGuest, state: LocalState, reason: str = "") -> None:
        """The guest is in a new state; the note and the register hear of it in the background."""
        guest.state, guest.reason = state, reason
        self._in_background(self.write_note(guest), guest)
        self._tell(guest)

    def _tell(self, guest: LocalGuest) -> None:
        """Have the register say of a guest what is so; whoever is telling already tells the latest."""
        if not guest.is_telling and guest.state not in _INCOMING:
            guest.is_telling = True
            self._in_background(self._tell_until_told(guest), guest)

    async def _tell_until_told(self, guest: LocalGuest) -> None:
        try:
            for _ in range(TELL_TRIES):
                record = self._cluster.register.guest(guest.name)
                if self._guests.get(guest.name) is not guest or guest.state in _INCOMING or record is None:
                    return
                is_own = (record.owner, record.epoch) == (self._cluster.node, guest.epoch)
                if not is_own or record.state == guest.state.value:
                    return
                with contextlib.suppress(OutcomeUnknown):
                    await self._submit_state(guest.name, guest.epoch, guest.state)
        finally:
            guest.is_telling = False

    async def _submit_state(self, name: str, epoch: int, state: LocalState) -> None:
        await self._submit("guest_state", name=name, owner=self._cluster.node, epoch=epoch, state=state.value)

    async def write_note(self, guest: LocalGuest) -> None:
        """Write down what is known of the guest, unless it was forgotten. Raises ImageFileError."""

        def write() -> Deferred[None]:
            note = guest.note()
            return self._run_in_thread(lambda: self._files.write_note(note))

        await self._notes.run(lambda: write() if self._guests.get(guest.name) is guest else succeed(None))

    async def forget(self, guest: LocalGuest) -> None:
        """Delete image and note. Raises ImageFileError."""
        if self._guests.get(guest.name) is guest:
            del self._guests[guest.name]
        await self._notes.run(lambda: self._run_in_thread(lambda: self._files.remove(guest.name, guest.image)))

    def _in_background(self, work: Awaitable[object], guest: LocalGuest) -> None:
        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, CsvdError):
                self._log.warn("guest {guest}: {error}", guest=guest.name, error=error)
            else:
                self._log.failure("guest {guest}: a fault", failure, guest=guest.name)

        async def done() -> None:
            await work

        Deferred.fromCoroutine(done()).addErrback(failed)

    async def _submit(self, operation: str, **fields: Any) -> dict[str, Any]:
        return await self._cluster.submit({"op": operation, **fields}, timeout_s=SUBMIT_TIMEOUT_S)

    # What the register says.

    def _register_changed(self, *_: object) -> None:
        for guest in [*self._guests.values()]:
            record = self._cluster.register.guest(guest.name)
            # No record says nothing: this node may not have applied that much yet. A guest with an operation is in
            # the hands of one who looks at the register himself.
            if record is None or guest.operation:
                continue
            if record.owner == self._cluster.node:
                self._still_owned(guest, record)
            elif record.epoch > guest.epoch or (guest.state in _INCOMING and record.epoch == guest.epoch):
                self._in_background(self._give_away(guest, record.owner), guest)
        self._tell_of_absent()

    def _still_owned(self, guest: LocalGuest, record: GuestRecord) -> None:
        if guest.state is LocalState.COMPLETE and record.epoch >= guest.epoch:
            # Whatever the note says, the register names this node: this is the guest, and nobody else has it.
            guest.state = LocalState.STOPPED
            guest.reason = f"it was handed over to {self._cluster.node} while the daemon there was down"
            guest.epoch = record.epoch
            self._in_background(self.write_note(guest), guest)
        elif record.epoch > guest.epoch:
            guest.epoch = record.epoch
            self._in_background(self.write_note(guest), guest)
        self._tell(guest)

    def _tell_of_absent(self) -> None:
        """Guests that are this node's by the register, and of which it has nothing, are stopped."""
        for name, record in self._cluster.register.guests.items():
            is_told = record.state == LocalState.STOPPED.value or (name, record.epoch) in self._told_absent
            if record.owner != self._cluster.node or name in self._guests or is_told:
                continue
            self._told_absent.add((name, record.epoch))
            absent = LocalGuest(name, GuestSpec.from_json(record.spec), record.epoch, Path())
            self._in_background(self._submit_state(name, record.epoch, LocalState.STOPPED), absent)

    async def _give_away(self, guest: LocalGuest, owner: str) -> None:
        """The register names another owner, and later than this image is."""
        self._log.warn("guest {guest} is owned by {owner} now: ended and deleted here", guest=guest.name, owner=owner)
        with self.busy(guest, "removal"):
            if guest.driver is not None:
                guest.state = LocalState.STOPPED
                await guest.driver.kill()
            await self.forget(guest)

"""Guests that leave this node and guests that come: what a migration asks of the VM role."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from csvd.vm.errors import GuestBusy, GuestEnded, VmError
from csvd.vm.files import GuestFiles, LocalState
from csvd.vm.interfaces import GuestDriver, RunInThread
from csvd.vm.layout import PAGE_BYTES
from csvd.vm.ownership import LocalGuest, NodeGuests
from csvd.vm.spec import GuestSpec


class DepartingGuest:
    """A guest of this node that may leave it; nothing else is done with it until ``stay`` or ``release``."""

    def __init__(self, guests: NodeGuests, guest: LocalGuest, driver: GuestDriver, epoch: int) -> None:
        self.epoch = epoch
        self.is_running = guest.state is LocalState.RUNNING
        self._guests = guests
        self._guest = guest
        self._driver = driver

    @property
    def image_path(self) -> Path:
        """Its memory image."""
        return self._guest.image

    @property
    def memory_bytes(self) -> int:
        """Size of its RAM."""
        return self._guest.spec.memory_bytes

    @property
    def page_bytes(self) -> int:
        """Size of its pages."""
        return PAGE_BYTES

    @property
    def spec(self) -> Mapping[str, Any]:
        """What it is made of, as the register has it."""
        return self._guest.spec.to_json()

    @property
    def process_id(self) -> int | None:
        """The process whose memory it is."""
        return self._driver.process_id

    def when_ended(self) -> Deferred[GuestEnded]:
        """Fires with the reason when its process has ended."""
        return self._driver.when_ended()

    async def stop(self) -> int | None:
        """Have it write nothing more. Returns the CLOCK_BOOTTIME nanosecond of its last write. Raises VmError."""
        return await self._driver.stop()

    async def resume(self) -> None:
        """Let it go on as it did before ``stop``. Raises VmError."""
        if self.is_running:
            await self._driver.cont()

    async def release(self) -> None:
        """It is another node's now: end its process and delete its image. Raises VmError."""
        self._guest.state = LocalState.STOPPED
        try:
            await self._driver.kill()
            await self._guests.forget(self._guest)
        except BaseException:
            self._guests.free(self._guest)
            raise

    async def end(self) -> None:
        """It must not run here: end its process; the image stays. Raises VmError."""
        self._guest.state = LocalState.STOPPED
        try:
            await self._driver.kill()
            self._guest.reason = "the register names another owner"
            await self._guests.write_note(self._guest)
        finally:
            self._guests.free(self._guest)

    def stay(self) -> None:
        """The migration is over and the guest stays: anybody may use it again."""
        self._guests.free(self._guest)


class ArrivingGuest:
    """A guest that may come to this node: an image that is being filled, and a process that waits."""

    def __init__(self, guests: NodeGuests, guest: LocalGuest, *, is_running: bool) -> None:
        self._guests = guests
        self._guest = guest
        self._is_running = is_running

    @property
    def image_path(self) -> Path:
        """Its memory image."""
        return self._guest.image

    async def ready(self) -> None:
        """The image is complete: see that the process is well, and note that this may be the only copy soon.

        Raises VmError.
        """
        await self._guests.live_driver(self._guest).query_status()
        self._guest.state = LocalState.COMPLETE
        await self._guests.write_note(self._guest)

    async def adopt(self) -> int | None:
        """It is this node's now: run it, in a new process should the one that waited have died meanwhile.

        Returns the CLOCK_BOOTTIME nanosecond of the start, None when it stays paused. Raises VmError.
        """
        guest = self._guest
        try:
            if guest.driver is None or not guest.driver.is_alive:
                await self._guests.start_process(guest)
            boottime_ns = await self._guests.live_driver(guest).cont() if self._is_running else None
        except VmError as error:
            # One that did not answer in time must not begin to run later, when it is said to be stopped.
            if guest.driver is not None:
                await guest.driver.kill()
            self._guests.changed(guest, LocalState.STOPPED, str(error))
            raise
        else:
            self._guests.changed(guest, LocalState.RUNNING if self._is_running else LocalState.PAUSED)
        finally:
            self._guests.free(guest)
        return boottime_ns

    async def discard(self) -> None:
        """It stays elsewhere: end the process and delete the image. Raises VmError."""
        if self._guest.driver is not None:
            await self._guest.driver.kill()
        await self._guests.forget(self._guest)


class GuestHost:
    """Where guests leave this node and come to it."""

    def __init__(self, guests: NodeGuests, files: GuestFiles, run_in_thread: RunInThread) -> None:
        self._guests = guests
        self._files = files
        self._run_in_thread = run_in_thread

    def depart(self, name: str) -> DepartingGuest:
        """Take hold of a guest that is to leave. Raises VmError when it is not here, stopped or busy."""
        guest, record = self._guests.owned(name)
        driver = self._guests.live_driver(guest)
        self._guests.take(guest, "migration")
        return DepartingGuest(self._guests, guest, driver, record.epoch)

    async def arrive(
        self, name: str, *, spec: Mapping[str, Any], memory_bytes: int, source: str, epoch: int, is_running: bool
    ) -> ArrivingGuest:
        """Make room for a guest that ``source`` owns with ``epoch``, and start its process, paused.

        Raises VmError when there is not enough room or another guest is in the way, ConfigError when the spec is none.
        """
        guest_spec = GuestSpec.from_json(spec)
        if guest_spec.memory_bytes != memory_bytes:
            raise VmError(
                "the guest's spec and its memory are not of one size",
                where=f"guest {name}",
                why=f"{guest_spec.memory_bytes} and {memory_bytes} bytes",
            )
        await self._make_way(name, source, epoch)
        guest = LocalGuest(name, guest_spec, epoch + 1, self._files.image_path(name, guest_spec), LocalState.ARRIVING)
        guest.operation = "migration"
        self._guests.hold(guest)
        arriving = ArrivingGuest(self._guests, guest, is_running=is_running)
        try:
            await self._run_in_thread(lambda: self._files.check_room(guest_spec))
            await self._guests.write_note(guest)
            await self._run_in_thread(lambda: self._files.create_image(name, guest_spec))
            await self._guests.start_process(guest)
        except BaseException:
            await arriving.discard()
            raise
        return arriving

    async def _make_way(self, name: str, source: str, epoch: int) -> None:
        """Delete an image of an earlier stay here. Raises GuestBusy or VmError when it is not certainly stale."""
        earlier = self._guests.held(name)
        if earlier is None:
            return
        if earlier.operation:
            raise GuestBusy("the guest is busy here", where=f"guest {name}", why=f"{earlier.operation} is under way")
        is_undecided = earlier.state is LocalState.COMPLETE
        if earlier.epoch > epoch and not is_undecided:
            raise VmError(
                "this node holds a later image of the guest",
                where=f"guest {name}",
                why=f"of epoch {earlier.epoch}, {source} moves epoch {epoch}",
            )
        if earlier.driver is not None:
            earlier.state = LocalState.STOPPED
            await earlier.driver.kill()
        await self._guests.forget(earlier)

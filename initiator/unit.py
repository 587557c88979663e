"""A logical unit: runs commands on it, and asks what every kind of unit can say of itself (SPC-4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

from twisted.internet.task import deferLater
from twisted.logger import Logger

from initiator.engine.requests import GOOD, Buffer, Command
from initiator.errors import AttentionPending, CommandFailed, IllegalRequest, MalformedAnswer, ResidualMismatch
from initiator.failures import TASK_ABORTED, failure_of, passes
from initiator.multipath_options import PathStatus
from initiator.reservations import Reservations
from initiator.road import Road, begin, deadline_of, submit
from initiator.scsi import answers, cdb, inquiry, log, mode, operation_codes, sense, target_ports
from initiator.scsi import lun as luns
from initiator.scsi.idempotence import is_idempotent
from initiator.scsi.inquiry import Inquiry, SupportedPages, VpdPage
from initiator.scsi.log import LogPage
from initiator.scsi.mode import ModePage, ModeParameters, PageControl
from initiator.scsi.operation_codes import CommandSupport, SupportedCommand
from initiator.scsi.sense import Sense
from initiator.scsi.target_ports import AccessState, TargetPortGroups
from initiator.session import Session

UNIT_ATTENTIONS: Final = 8
"""Unit attentions after which one call repeats its command; one more fails it."""

MOST_ANSWER_BYTES: Final = 1 << 20
"""The longest answer that is asked for where the target says how long it would be."""

_FIRST_BACKOFF_S: Final = 0.01
_LAST_BACKOFF_S: Final = 1.0
_INQUIRY_BYTES: Final = 255
_LUN_LIST_BYTES: Final = 4096

_Self = TypeVar("_Self", bound="LogicalUnit")
_Page = TypeVar("_Page", bound=ModePage)


class LogicalUnit:
    """One LUN of a target, of whatever kind.

    Every call takes ``timeout_s``, for the call as a whole; without it the road's holds. Every call raises
    CommandFailed when the target refuses, TimedOut at its deadline and SessionLost when the session ends under it:
    after the last two it is unknown whether the target did what was asked. A command that meets a unit attention, BUSY
    or TASK SET FULL was not executed (SAM-5 section 5.3), and is repeated within the deadline.

    Unit attentions are news of the unit: every one is given, with its sense, to the functions in ``on_unit_attention``.
    """

    def __init__(self, road: Road, lun: int) -> None:
        self.road = road
        self.lun = lun
        self.on_unit_attention: list[Callable[[Sense], None]] = []
        self.log = Logger()
        self.reservations = Reservations(self)
        self._lun_field = luns.encode(lun)

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Log out, and so close all disks of the road. Nothing is flushed. Never raises."""
        await self.road.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} LUN {self.lun} on {self.road!r}>"

    @property
    def session(self) -> Session:
        """The session that the road has now, or had last."""
        return self.road.session

    @property
    def paths(self) -> tuple[PathStatus, ...]:
        """Each path as it is now, where the road has several; else none."""
        return getattr(self.road, "paths", ())

    # --- what it says of itself

    async def test_unit_ready(self, *, timeout_s: float | None = None) -> None:
        """Return when the LUN is ready."""
        await self._run(cdb.TEST_UNIT_READY, self.deadline(timeout_s))

    async def inquiry(self, *, timeout_s: float | None = None) -> Inquiry:
        """Ask for the standard INQUIRY data.

        Raises:
            MalformedAnswer: it is too short.
        """
        return inquiry.parse_standard(await self.ask(cdb.inquiry(_INQUIRY_BYTES), _INQUIRY_BYTES, timeout_s=timeout_s))

    async def vpd(self, page: int, *, timeout_s: float | None = None) -> VpdPage:
        """Ask for a VPD page; the fields of those that this package knows (00h, 80h, 83h, 85h to 88h,
        8Fh, B0h to B3h), the bytes of all others.

        Raises:
            MalformedAnswer: the page contradicts itself.
        """
        data = await self.ask(cdb.inquiry(_INQUIRY_BYTES, page=page), _INQUIRY_BYTES, timeout_s=timeout_s)
        whole = 4 + int.from_bytes(data[2:4], "big")
        if len(data) == _INQUIRY_BYTES < whole:
            data = await self.ask(cdb.inquiry(min(whole, 0xFFFF), page=page), min(whole, 0xFFFF), timeout_s=timeout_s)
        return inquiry.parse_vpd(page, data)

    async def supported_pages(self, *, timeout_s: float | None = None) -> tuple[int, ...]:
        """Ask for the codes of the VPD pages that the unit has; none where it does not tell."""
        try:
            page = await self.vpd(0x00, timeout_s=timeout_s)
        except (CommandFailed, MalformedAnswer):
            return ()
        return page.pages if isinstance(page, SupportedPages) else ()

    async def report_luns(self, *, timeout_s: float | None = None) -> list[int]:
        """Ask for the LUNs of the target.

        Raises:
            MalformedAnswer: the answer is not a list of LUNs.
        """
        data = await self.ask(cdb.report_luns(_LUN_LIST_BYTES), _LUN_LIST_BYTES, timeout_s=timeout_s)
        found, whole_bytes = answers.parse_luns(data)
        if whole_bytes > _LUN_LIST_BYTES:
            room = min(whole_bytes, 8 + 8 * answers.LUN_LIST_LIMIT)
            found, _ = answers.parse_luns(await self.ask(cdb.report_luns(room), room, timeout_s=timeout_s))
        return found

    async def write_cache_enabled(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether a volatile write cache is in use (WCE of the caching mode page): then only FUA and a flush make
        data durable. False where the device has no such page.

        Raises:
            MalformedAnswer: the answer has no caching page.
        """
        try:
            data = await self.ask(cdb.mode_sense_6(answers.CACHING_PAGE), 255, timeout_s=timeout_s)
        except IllegalRequest:
            return False
        return answers.parse_write_cache(data)

    async def mode_sense(
        self,
        page: int = mode.ALL_PAGES,
        subpage: int = 0,
        control: PageControl = PageControl.CURRENT,
        *,
        timeout_s: float | None = None,
    ) -> ModeParameters:
        """Ask for mode pages: one, or all that the unit has (MODE SENSE(10)).

        Raises:
            MalformedAnswer: the answer contradicts itself.
        """

        def build(room_bytes: int) -> bytes:
            return mode.sense_cdb(page, subpage, control, room_bytes)

        return mode.parse(await self._ask_whole(build, 2, 512, timeout_s, most_bytes=0xFFFF))

    async def mode_page(self, kind: type[_Page], *, timeout_s: float | None = None) -> _Page:
        """Ask for a mode page that this package knows, as ``mode_page(Caching)``.

        Raises:
            MalformedAnswer: it is not in the answer.
        """
        (code, subpage) = next(codes for codes, known in mode.KINDS.items() if known is kind)
        page = (await self.mode_sense(code, subpage, timeout_s=timeout_s)).page(code, subpage)
        if not isinstance(page, kind):
            raise MalformedAnswer(f"MODE SENSE gave no page {code:02X}h/{subpage:02X}h")
        return page

    async def mode_select(self, *pages: ModePage, save: bool = False, timeout_s: float | None = None) -> None:
        """Change mode pages (MODE SELECT(10)): those of :meth:`mode_sense`, with :meth:`ModePage.replaced` values."""
        parameters = mode.select_list(pages)
        await self.tell(mode.select_cdb(len(parameters), save=save), parameters, timeout_s=timeout_s)

    async def log_sense(self, page: int, subpage: int = 0, *, timeout_s: float | None = None) -> LogPage:
        """Ask for a log page.

        Raises:
            MalformedAnswer: it is another one, or contradicts itself.
        """

        def build(room_bytes: int) -> bytes:
            return log.cdb(page, subpage, room_bytes)

        data = await self._ask_whole(build, 4, 512, timeout_s, most_bytes=0xFFFF, at=2)
        return log.parse(page, subpage, data)

    async def supported_log_pages(self, *, timeout_s: float | None = None) -> list[tuple[int, int]]:
        """Ask for the log pages that the unit has: pairs of page and subpage."""
        return log.parse_supported(await self.log_sense(log.SUPPORTED_PAGES, timeout_s=timeout_s))

    async def request_sense(self, *, descriptor: bool = False, timeout_s: float | None = None) -> Sense | None:
        """Ask for sense data while no command has failed: what goes on in the unit (REQUEST SENSE)."""
        data = await self.ask(cdb.request_sense(252, descriptor=descriptor), 252, timeout_s=timeout_s)
        return sense.parse(data)

    async def start_stop(
        self,
        start: bool,
        *,
        load_or_eject: bool = False,
        power_condition: int = 0,
        immediate: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Start the unit or stop it (START STOP UNIT, SBC-3 section 5.25)."""
        build = cdb.start_stop_unit(
            start, load_or_eject=load_or_eject, power_condition=power_condition, immediate=immediate
        )
        await self._run(build, self.deadline(timeout_s))

    async def target_port_groups(self, *, extended: bool = False, timeout_s: float | None = None) -> TargetPortGroups:
        """Ask for the target port groups and their states (REPORT TARGET PORT GROUPS).

        Raises:
            MalformedAnswer: the answer contradicts itself.
        """

        def build(room_bytes: int) -> bytes:
            return target_ports.report_cdb(room_bytes, extended=extended)

        return target_ports.parse(await self._ask_whole(build, 4, 1024, timeout_s))

    async def set_target_port_groups(
        self, states: Mapping[int, AccessState], *, timeout_s: float | None = None
    ) -> None:
        """Have the target change the states of target port groups, by their tags (SET TARGET PORT GROUPS)."""
        parameters = target_ports.set_list(states)
        await self.tell(target_ports.set_cdb(len(parameters)), parameters, timeout_s=timeout_s)

    async def supported_commands(self, *, timeout_s: float | None = None) -> list[SupportedCommand]:
        """Ask for all commands that the unit has (REPORT SUPPORTED OPERATION CODES, SPC-4 section 6.35).

        Raises:
            MalformedAnswer: the answer is too short.
        """

        def build(room_bytes: int) -> bytes:
            return cdb.report_supported_operation_codes(room_bytes)

        return operation_codes.parse_all(await self._ask_whole(build, 4, 4096, timeout_s))

    async def command_support(
        self, operation_code: int, service_action: int | None = None, *, timeout_s: float | None = None
    ) -> CommandSupport:
        """Ask whether the unit has a command, and which bits of its CDB it looks at.

        Raises:
            MalformedAnswer: the answer is shorter than it says.
        """
        asked = cdb.report_supported_operation_codes(255, operation_code=operation_code, service_action=service_action)
        return operation_codes.parse_one(await self.ask(asked, 255, timeout_s=timeout_s))

    async def nop(self, *, timeout_s: float | None = None) -> float:
        """Ping the target; give the seconds until its answer."""
        return await self.road.nop(timeout_s=timeout_s)

    async def command(
        self,
        cdb_bytes: bytes,
        *,
        data_out: Buffer | None = None,
        data_in_bytes: int = 0,
        timeout_s: float | None = None,
    ) -> bytes:
        """Run any command, once; give its Data-In.

        Raises:
            CommandFailed: the status is not GOOD; also for a unit attention, BUSY and TASK SET FULL.
        """
        buffer = bytearray(data_in_bytes) if data_in_bytes else None
        command = Command(self._lun_field, cdb_bytes, data_in=buffer, data_out=data_out)
        await submit(self.road, command, timeout_s)
        if command.status != GOOD or command.response:
            failure = failure_of(command)
            if isinstance(failure, AttentionPending) and failure.sense is not None:
                self._attention(failure.sense)
            raise failure
        return bytes(buffer[: command.received]) if buffer is not None else b""

    # --- how

    def deadline(self, timeout_s: float | None = None) -> float:
        """Give when a call with such a timeout has to be done, on ``reactor.seconds()``."""
        return deadline_of(self.road, timeout_s)

    async def ask(self, cdb_bytes: bytes, room_bytes: int, *, timeout_s: float | None = None) -> bytes:
        """Run any command that gives data, repeated where it was not executed; give the data, of any length up to the
        room."""
        buffer = bytearray(room_bytes)
        command = await self._run(cdb_bytes, self.deadline(timeout_s), data_in=memoryview(buffer))
        return bytes(buffer[: command.received])

    async def tell(self, cdb_bytes: bytes, data: bytes, *, timeout_s: float | None = None) -> None:
        """Run any command that sends data, repeated where it was not executed."""
        await self._run(cdb_bytes, self.deadline(timeout_s), data_out=memoryview(data) if data else None)

    async def _ask_whole(
        self,
        build: Callable[[int], bytes],
        length_bytes: int,
        room_bytes: int,
        timeout_s: float | None,
        *,
        most_bytes: int = MOST_ANSWER_BYTES,
        at: int = 0,
    ) -> bytes:
        """Ask for data whose own length is in it, from ``at`` to ``length_bytes``; again, where there is more.

        ``build(room_bytes)`` gives the CDB.
        """
        data = await self.ask(build(room_bytes), room_bytes, timeout_s=timeout_s)
        whole = min(length_bytes + int.from_bytes(data[at:length_bytes], "big"), most_bytes)
        if len(data) == room_bytes < whole:
            data = await self.ask(build(whole), whole, timeout_s=timeout_s)
        return data

    async def _run(
        self,
        cdb_bytes: bytes,
        deadline_s: float,
        *,
        data_in: memoryview | None = None,
        data_out: memoryview | None = None,
        exact: bool = False,
        ended: Command | None = None,
    ) -> Command:
        """Run a command until it has status GOOD; ``exact`` makes a residual an error.

        ``ended`` is the command where it was run once already, with another outcome.
        """
        attentions, backoff_s = 0, _FIRST_BACKOFF_S
        reactor = self.road.reactor
        while True:
            if ended is None:
                command = Command(self._lun_field, cdb_bytes, data_in=data_in, data_out=data_out)
                await begin(self.road, command, deadline_s)
            else:
                command, ended = ended, None
            if command.status == GOOD and not command.response:
                if exact and command.residual:
                    left = f"{command.residual} of {command.length} bytes over"
                    raise ResidualMismatch(f"{cdb.name_of(cdb_bytes)} left {left}")
                return command
            failure = failure_of(command)
            if command.response:
                raise failure
            if isinstance(failure, AttentionPending) and failure.sense is not None:
                self._attention(failure.sense)
                attentions += 1
                if attentions <= UNIT_ATTENTIONS:
                    continue
            # A task that another nexus has ended is over, and a reset by it says nothing of this command.
            is_over = failure.status == TASK_ABORTED and is_idempotent(cdb_bytes)
            if not (passes(failure) or is_over) or reactor.seconds() + backoff_s >= deadline_s:
                raise failure
            await deferLater(reactor, backoff_s, lambda: None)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    def _attention(self, found: Sense) -> None:
        """There is news of the unit."""
        self.log.info("LUN {lun} says: {sense}", lun=self.lun, sense=str(found))
        for listener in list(self.on_unit_attention):
            try:
                listener(found)
            except Exception:  # noqa: BLE001 - the command that met it must not fail for who only listens
                self.log.failure("a listener to unit attentions failed")


async def units_of(road: Road, *, timeout_s: float | None = None) -> list[tuple[int, Inquiry]]:
    """Ask a target for its LUNs, and each of them what it is; one that does not tell is left out.

    Raises:
        MalformedAnswer: the target's list is none.
    """
    found: list[tuple[int, Inquiry]] = []
    for lun in await LogicalUnit(road, 0).report_luns(timeout_s=timeout_s):
        with suppress(CommandFailed, MalformedAnswer):
            found.append((lun, await LogicalUnit(road, lun).inquiry(timeout_s=timeout_s)))
    return found

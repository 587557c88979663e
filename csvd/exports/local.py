"""Serving in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.config.targets import LunSection, TargetSection, portal_groups
from csvd.errors import ConfigError, CsvdError
from csvd.exports.build import export_of, settings_of
from csvd.exports.difference import Difference, difference_of
from csvd.exports.faces import unit_face
from csvd.exports.serving import Plan
from csvd.iscsi.portals import PortalGroup
from csvd.scsi.logical_unit import LogicalUnit
from csvd.storage.open import create_disk, is_there
from csvd.target.export import Export
from csvd.target.kept_state import KeptState
from csvd.target.service import DRAIN_S, TargetService, Tell
from csvd.target.units import Units

Json = dict[str, Any]
T = TypeVar("T")


class Run(Protocol):
    """Runs a job in a thread."""

    def __call__(self, job: Callable[[], T], /) -> Deferred[T]:
        """Fires on the loop."""


class Portals:
    """Has a service listen where targets say."""

    def __init__(self, service: TargetService) -> None:
        self._service = service

    def open(self, targets: Sequence[TargetSection]) -> None:
        """Listen at the portals of targets, beside those that are listened at.

        Raises:
            PortalError: one can not be opened.
        """
        open_now = self._service.groups()
        for tag, portals in portal_groups(targets).items():
            self._service.set_group(PortalGroup(tag, tuple(dict.fromkeys([*open_now.get(tag, {}), *portals]))))

    def close_others(self, targets: Sequence[TargetSection]) -> None:
        """Listen at no portals but those of targets."""
        wanted = portal_groups(targets)
        for tag, open_now in self._service.groups().items():
            portals = tuple(portal for portal in wanted.get(tag, ()) if portal in open_now)
            if portals:
                self._service.set_group(PortalGroup(tag, portals))
            else:
                self._service.close_group(tag)


@dataclass(slots=True)
class _Prepared:
    """What is opened for a plan.

    Args:
        later: targets whose logical units get what was kept of them only when they are served: until then another
            process may keep more.
    """

    plan: Plan
    difference: Difference
    later: Collection[str]
    opened: dict[tuple[str, int], LogicalUnit]
    added: list[Export]
    changed: list[Export]


class LocalServing:
    """Serves with the target service of this process; see `Serving`.

    Args:
        portals: None where whoever made the service has it listen.
        run: for what blocks.
        tell: told of disks that fail to close.
    """

    log = Logger()

    def __init__(
        self,
        service: TargetService,
        units: Units,
        keeper: KeptState,
        *,
        portals: Portals | None,
        run: Run,
        tell: Tell,
    ) -> None:
        self._service = service
        self._units = units
        self._keeper = keeper
        self._listening = portals
        self._run = run
        self._tell = tell
        self._plan = Plan()
        self._prepared: _Prepared | None = None

    @property
    def portals(self) -> list[str]:
        """The addresses that it listens at."""
        return self._service.portals

    def groups(self) -> dict[int, dict[str, str]]:
        """These addresses by portal group tag and as they are written."""
        return self._service.groups()

    async def start(self, plan: Plan) -> list[str]:
        """Open all disks, then all portals; give the addresses of the portals."""
        await self._prepare(plan, ())
        await self._commit()
        self._service.start(())
        if self._listening is not None:
            self._listening.open(plan.targets)
        return self._service.portals

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Stop the service, which answers what is under way for so long, and close the disks."""
        await self._service.stop(drain_s)
        await self._units.close_all()

    # What there is

    async def refresh(self) -> None:
        """Do nothing: it is asked where it is."""

    def sessions(self) -> list[Json]:
        """The sessions of all targets."""
        return self._service.sessions()

    def statistics(self) -> Json:
        """What the commands came to."""
        return self._service.statistics()

    def workers(self) -> list[Json]:
        """None."""
        return []

    def unit_face(self, target: str, number: int) -> Json | None:
        """A logical unit."""
        unit = self._service.unit(target, number)
        return None if unit is None else unit_face(unit)

    def unit_faces(self) -> dict[str, list[Json]]:
        """All logical units, by target."""
        return {
            section.name: [unit_face(unit) for unit in self._service.units(section.name)]
            for section in self._plan.targets
        }

    # Changes

    async def prepare(self, plan: Plan, later: Collection[str] = ()) -> None:
        """Open the disks and portals that a plan takes beside what is open.

        Args:
            later: targets that another process serves until this one is to.
        """
        await self._prepare(plan, later)
        try:
            if self._listening is not None:
                self._listening.open(plan.targets)
        except BaseException:
            await self.abandon()
            raise

    async def _prepare(self, plan: Plan, later: Collection[str]) -> None:
        assert self._prepared is None
        difference = difference_of(self._plan.targets, plan.targets)
        opened: dict[tuple[str, int], LogicalUnit] = {}
        wanted = [*difference.units_new, *((new.name, lun) for new in difference.new for lun in new.lun)]
        try:
            for name, lun in wanted:
                await self._create(lun)
                settings = settings_of(lun, plan.secret, is_clustered=name in plan.clustered)
                unit = opened[name, lun.number] = await self._units.open(settings)
                if name not in later:
                    self._attach(unit)
            added = [
                self._export(plan, section, [opened[section.name, lun.number] for lun in section.lun])
                for section in difference.new
            ]
            changed = [self._export(plan, section, []) for section in difference.other]
        except BaseException:
            await self._close_all(opened.values())
            raise
        self._prepared = _Prepared(plan, difference, later, opened, added, changed)

    @staticmethod
    def _export(plan: Plan, section: TargetSection, units: Sequence[LogicalUnit]) -> Export:
        return export_of(section, units, plan.secret, is_clustered=section.name in plan.clustered)

    async def abandon(self) -> None:
        """Close what was opened for the plan that was prepared."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        if self._listening is not None:
            self._listening.close_others(self._plan.targets)
        await self._close_all(prepared.opened.values())

    async def commit(self) -> None:
        """Serve the plan that was prepared, and nothing else."""
        await self._commit()
        if self._listening is not None:
            self._listening.close_others(self._plan.targets)

    async def _commit(self) -> None:
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        self._plan, difference, opened = prepared.plan, prepared.difference, prepared.opened
        for (name, _), unit in opened.items():
            if name in prepared.later:
                self._attach(unit)
        self._service.entity.discovery_access = prepared.plan.discovery_access
        for section in difference.gone:
            await self._close_all(await self._service.remove_target(section.name))
        for name, lun in difference.units_gone:
            await self._close_all([await self._service.remove_unit(name, lun.number)])
        for export in prepared.added:
            self._service.add_target(export)
        for export in prepared.changed:
            self._service.change_target(export)
        for name, lun in difference.units_new:
            self._service.add_unit(name, opened[name, lun.number])

    def _attach(self, unit: LogicalUnit) -> None:
        # What all nodes serve as one is kept by all of them, not here.
        if not unit.is_clustered:
            self._keeper.attach(unit)

    async def _create(self, lun: LunSection) -> None:
        """Make the disk of a logical unit, in a thread: to allocate a large file takes its time."""
        create_bytes, url = lun.create, lun.disk
        if create_bytes is not None and not is_there(url):
            full = lun.provisioning == "full"
            try:
                await self._run(lambda: create_disk(url, create_bytes, block_bytes=lun.block_bytes, full=full))
            except ConfigError:
                # Another node that starts at the same time may have made it meanwhile.
                if not is_there(url):
                    raise

    async def _close_all(self, units: Collection[LogicalUnit]) -> None:
        for unit in units:
            self._keeper.detach(unit)
            try:
                await self._units.close(unit)
            except CsvdError as error:
                self.log.error("{error}", error=error)
                self._tell("disk", str(error), unit.device.url)

    async def note(self, targets: Sequence[TargetSection]) -> None:
        """What is served is said in other words by now."""
        self._plan = replace(self._plan, targets=targets)

    async def resize(self, target: str, number: int, size_bytes: int | None, *, full: bool) -> None:
        """Give the disk of a logical unit another size."""
        unit = self._service.unit(target, number)
        assert unit is not None
        units = self._units.sharing(unit)
        await self._units.resize(unit, size_bytes, full=full)
        for each in units:
            self._service.resized(each)

    async def drop_session(self, target: str, tsih: int, *, grace_s: int) -> bool:
        """End a session, or ask its initiator to log out first."""
        if grace_s:
            return self._service.request_logout(target, tsih, grace_s)
        return self._service.drop_session(target, tsih)

"""The targets of a running node: what they are, and how that is changed without a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from csvd.api.errors import BadRequest, NotFound, Refused, Unavailable
from csvd.api.events import EventRing
from csvd.config.load import ConfigProblems, Source, complete
from csvd.config.schema import Config
from csvd.config.targets import LunSection, TargetSection
from csvd.exports import changes as change_file
from csvd.exports.changes import Changes, Entry, TargetEntry
from csvd.exports.difference import lowest_free
from csvd.exports.faces import lun_face, lun_of, origins_of, section_face, target_face
from csvd.exports.local import Run
from csvd.exports.serving import Serving, plan_of
from csvd.iscsi.names import check_iscsi_name
from csvd.storage.open import place_of

Json = dict[str, Any]


class Administration:
    """Opens what the configuration says at the start, and changes it at run time.

    Every change is checked by the same rules as the configuration file, carried out as far as it can fail, kept
    durably, and only then seen by initiators. Changes are made one after the other.

    Args:
        source: the configuration file.
        serving: told what to serve.
        run: for what blocks.

    Raises:
        ConfigError: what was kept at run time can not be read, or contradicts the configuration file.
    """

    log = Logger()

    def __init__(
        self,
        source: Source,
        directory: Path,
        *,
        serving: Serving,
        run: Run,
        events: EventRing,
    ) -> None:
        self._source = source
        self._directory = directory
        self._serving = serving
        self._run = run
        self._events = events
        self._lock = DeferredLock()
        self._changes = change_file.read_changes(directory)
        self._config = self._complete(self._changes)

    def _complete(self, changes: Changes) -> Config:
        where = str(self._directory / change_file.FILE_NAME)
        return complete(change_file.merge(self._source, changes, where=where))

    # The start

    async def start(self) -> list[str]:
        """Open all disks and portals, and serve all targets; give the addresses of the portals.

        Raises:
            CsvdError: a disk, a secret or a portal is wrong. What was opened is closed when the serving is stopped.
        """
        return await self._serving.start(plan_of(self._config))

    async def refresh(self) -> None:
        """Bring what is told of sessions and logical units up to date."""
        await self._serving.refresh()

    # What there is

    def targets(self) -> list[Json]:
        """All targets."""
        sessions = self._serving.sessions()
        return [
            target_face(
                section,
                change_file.origin_of(self._changes.targets, section.name),
                [session for session in sessions if session["target"] == section.name],
                self._addresses(section),
            )
            for section in self._config.target
        ]

    def _addresses(self, section: TargetSection) -> list[str]:
        groups = self._serving.groups()
        return [address for tag in section.groups() for address in groups.get(tag, {}).values()]

    def target(self, name: str) -> Json:
        """One target, with its logical units and its access list. Raises NotFound."""
        section = self._section(name)
        face = next(face for face in self.targets() if face["name"] == section.name)
        return {**face, "luns": self.luns(section.name), "acl": self.acl(section.name)}

    def luns(self, name: str | None = None) -> list[Json]:
        """The logical units of a target, or of all. Raises NotFound."""
        sections = self._config.target if name is None else [self._section(name)]
        return [
            lun_face(section.name, lun, unit, change_file.lun_origin(self._changes, section.name, lun.number))
            for section in sections
            for lun in section.lun
            if (unit := self._serving.unit_face(section.name, lun.number)) is not None
        ]

    def lun(self, name: str, number: int) -> Json:
        """One logical unit. Raises NotFound."""
        section = self._section(name)
        lun_of(section, number)
        return next(face for face in self.luns(section.name) if face["number"] == number)

    def acl(self, name: str) -> list[Json]:
        """Who may log in to a target. Raises NotFound."""
        section = self._section(name)
        entry = self._changes.targets.get(section.name, TargetEntry())
        return [
            {**section_face(each), "origin": change_file.origin_of(entry.acl, each.initiator)} for each in section.acl
        ]

    def portals(self) -> list[Json]:
        """Where the node listens, and for which targets."""
        return [
            {
                "portal_group_tag": tag,
                "portal": portal,
                "address": address,
                "targets": [section.name for section in self._config.target if tag in section.groups()],
            }
            for tag, group in self._serving.groups().items()
            for portal, address in group.items()
        ]

    def configuration(self) -> Json:
        """All of the configuration as it is in force, and where the parts of its targets are from."""
        return {
            "file": self._source.where,
            "changes_file": str(self._directory / change_file.FILE_NAME),
            "configuration": section_face(self._config),
            "origins": origins_of(self._config.target, self._changes),
        }

    def has(self, name: str) -> bool:
        """Whether there is a target of this name."""
        return any(section.name == name.lower() for section in self._config.target)

    def _section(self, name: str) -> TargetSection:
        folded = name.lower()
        for section in self._config.target:
            if section.name == folded:
                return section
        known = ", ".join(section.name for section in self._config.target)
        raise NotFound("there is no such target", where=name[:250], hint=f"there are: {known}" if known else "")

    # Targets

    async def create_target(self, name: str, keys: Json) -> Json:
        """Serve another target, by the keys of ``[[target]]``."""
        name = check_iscsi_name(name)
        if not {"portals", "portal_group_tag", "portal_group"} & keys.keys() and self._config.target:
            first = self._config.target[0]
            keys = {**keys, "portals": list(first.portals), "portal_group_tag": first.portal_group_tag}
        await self._change(
            lambda changes: change_file.make(changes.targets, name, TargetEntry(keys=keys)),
            unless=lambda: self._refuse_target(name),
        )
        self._tell(f"target {name} was made", name)
        return self.target(name)

    def _refuse_target(self, name: str) -> None:
        if any(section.name == name for section in self._config.target):
            raise Refused("the target is there already", where=name)

    async def set_target(self, name: str, keys: Json) -> Json:
        """Change keys of a target; None is the default again. Sessions that are there go on as they are."""
        name = self._section(name).name
        if "name" in keys:
            raise BadRequest("a target keeps its name", where=name)
        await self._change(
            lambda changes: change_file.change(changes.targets, name, keys, TargetEntry),
            unless=lambda: self._section(name),
        )
        self._tell(f"target {name} was changed: {', '.join(sorted(keys))}", name)
        return self.target(name)

    async def remove_target(self, name: str, *, force: bool) -> Json:
        """Serve a target no more. With sessions that takes ``force``. Its disks stay as they are."""
        await self.refresh()
        face = self.target(name)
        name = face["name"]

        def refuse() -> None:
            self._section(name)
            count = sum(session["target"] == name for session in self._serving.sessions())
            if count and not force:
                raise Refused(f"the target has {count} sessions", where=name, hint="--force ends them")

        await self._change(lambda changes: change_file.remove(changes.targets, name, TargetEntry), unless=refuse)
        self._tell(f"target {name} was removed", name)
        return face

    # Logical units

    async def add_lun(self, name: str, keys: Json) -> Json:
        """Serve another logical unit; without ``number``, at the lowest LUN that is free."""
        section = self._section(name)
        name = section.name
        number = keys.get("number", lowest_free([lun.number for lun in section.lun]))

        def refuse() -> None:
            if any(lun.number == number for lun in self._section(name).lun):
                raise Refused(f"LUN {number} is taken", where=name)

        if type(number) is not int:
            raise BadRequest("a LUN is a whole number", where=name)
        rest = {key: value for key, value in keys.items() if key != "number"}
        await self._change(
            lambda changes: change_file.make(
                changes.targets.setdefault(name, TargetEntry()).luns, str(number), Entry(keys=rest)
            ),
            unless=refuse,
        )
        self._tell(f"LUN {number} of {name} was added", name)
        return self.lun(name, number)

    async def set_lun(self, name: str, number: int, keys: Json) -> Json:
        """Change keys of a logical unit; None is the default again. It is opened anew: initiators are told."""
        name = self._section(name).name
        if "number" in keys:
            raise BadRequest("a logical unit keeps its number", where=name)

        def edit(changes: Changes) -> None:
            target = changes.targets.setdefault(name, TargetEntry())
            change_file.change(target.luns, str(number), keys, Entry)

        await self._change(edit, unless=lambda: lun_of(self._section(name), number))
        self._tell(f"LUN {number} of {name} was changed: {', '.join(sorted(keys))}", name)
        return self.lun(name, number)

    async def remove_lun(self, name: str, number: int) -> Json:
        """Serve a logical unit no more, once what it is at is answered. Its disk stays as it is."""
        name = self._section(name).name
        face = self.lun(name, number)

        def edit(changes: Changes) -> None:
            change_file.remove(changes.targets.setdefault(name, TargetEntry()).luns, str(number), Entry)

        await self._change(edit, unless=lambda: lun_of(self._section(name), number))
        self._tell(f"LUN {number} of {name} was removed", name)
        return face

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> Json:
        """Give the disk of a logical unit another size; all logical units over it tell their initiators.

        Args:
            size_bytes: of the file; None takes the size that the file or device was given by others.
            force: a smaller size is meant: what lies beyond it is lost.
        """
        await self._lock.acquire()
        try:
            section = self._section(name)
            name = section.name
            lun = lun_of(section, number)
            before_bytes = self._size_bytes(name, number)
            if size_bytes is not None and size_bytes < before_bytes and not force:
                raise Refused(
                    f"LUN {number} has {before_bytes} bytes, more than {size_bytes}",
                    where=name,
                    hint="--force makes it smaller: what lies beyond is lost",
                )
            if size_bytes is not None and size_bytes < before_bytes:
                # Noted first: a file that is longer than was noted stands in no one's way, a shorter one does.
                await self._note_size(lun, size_bytes)
            await self._serving.resize(name, number, size_bytes, full=lun.provisioning == "full")
            after_bytes = self._size_bytes(name, number)
            if after_bytes > before_bytes:
                await self._note_size(lun, after_bytes)
        finally:
            self._lock.release()
        self._tell(f"LUN {number} of {name} has {after_bytes} bytes, not {before_bytes}", name)
        return self.lun(name, number)

    def _size_bytes(self, name: str, number: int) -> int:
        face = self._serving.unit_face(name, number)
        if face is None:
            raise Unavailable(f"LUN {number} is not served at the moment", where=name)
        return int(face["size_bytes"])

    async def _note_size(self, resized: LunSection, size_bytes: int) -> None:
        """Have ``create`` say the size that the file has, so that it does not stand in the way of the next start."""
        changes = self._changes.copy()
        place = place_of(resized.disk)
        for section in self._config.target:
            for lun in section.lun:
                if lun.create is not None and place_of(lun.disk) == place:
                    target = changes.targets.setdefault(section.name, TargetEntry())
                    change_file.change(target.luns, str(lun.number), {"create": size_bytes}, Entry)
        config = self._complete(changes)
        await self._save(changes)
        self._changes, self._config = changes, config
        await self._serving.note(tuple(config.target))

    # Access lists

    async def add_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Let an initiator log in; with the first, only those of the list may."""
        name = self._section(name).name
        initiator = check_iscsi_name(initiator)

        def refuse() -> None:
            if any(entry.initiator == initiator for entry in self._section(name).acl):
                raise Refused("the initiator is in the access list already", where=initiator)

        def edit(changes: Changes) -> None:
            change_file.make(changes.targets.setdefault(name, TargetEntry()).acl, initiator, Entry(keys=keys))

        await self._change(edit, unless=refuse)
        self._tell(f"{initiator} may log in to {name}", name)
        return self._acl_entry(name, initiator)

    async def set_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Change what holds for an initiator of the access list; None is the default again."""
        name, initiator = self._section(name).name, initiator.lower()

        def edit(changes: Changes) -> None:
            acl = changes.targets.setdefault(name, TargetEntry()).acl
            change_file.change(acl, initiator, keys, Entry)

        await self._change(edit, unless=lambda: self._acl_entry(name, initiator))
        self._tell(f"what holds for {initiator} at {name} was changed: {', '.join(sorted(keys))}", name)
        return self._acl_entry(name, initiator)

    def _acl_entry(self, name: str, initiator: str) -> Json:
        for entry in self.acl(name):
            if entry["initiator"] == initiator:
                return entry
        raise NotFound("the initiator is not in the access list", where=initiator)

    async def remove_acl(self, name: str, initiator: str) -> Json:
        """Take an initiator out of the access list, and end its sessions. With the last one, nobody may log in."""
        name = self._section(name).name
        initiator = initiator.lower()

        face = self._acl_entry(name, initiator)

        def edit(changes: Changes) -> None:
            target = changes.targets.setdefault(name, TargetEntry())
            change_file.remove(target.acl, initiator, Entry)
            section = self._section(name)
            if len(section.acl) == 1 and section.initiators is None:
                # Without a list all may log in, which is not what is asked for.
                target.keys = {**target.keys, "initiators": []}

        await self._change(edit, unless=lambda: self._acl_entry(name, initiator))
        await self.refresh()
        for session in self._serving.sessions():
            if session["target"] == name and session["initiator"] == initiator:
                await self._serving.drop_session(name, session["tsih"], grace_s=0)
        self._tell(f"{initiator} may no longer log in to {name}", name)
        return face

    # Sessions

    async def drop_session(self, name: str, tsih: int, *, grace_s: int = 0) -> Json:
        """End a session of any target that is served here, or have its initiator asked to log out within ``grace_s``
        first. Raises NotFound."""
        await self.refresh()
        name = name.lower()
        for session in self._serving.sessions():
            if session["target"] == name and session["tsih"] == tsih:
                how = f"has {grace_s} s to log out" if grace_s else "was dropped"
                await self._serving.drop_session(name, tsih, grace_s=grace_s)
                self._tell(f"the session {tsih} of {session['initiator']} {how}", name)
                return session
        raise NotFound(f"there is no session {tsih}", where=name[:250])

    # Carrying changes out

    async def _change(self, edit: Callable[[Changes], None], *, unless: Callable[[], Any]) -> None:
        """Make one change: check it, open what it takes, keep it, serve it.

        Args:
            unless: raises what stands against it; called when its turn has come.

        Raises:
            CsvdError: it can not be; all is as it was.
        """
        await self._lock.acquire()
        try:
            unless()
            changes = self._changes.copy()
            edit(changes)
            try:
                config = self._complete(changes)
            except ConfigProblems as error:
                raise self._as_answer(error) from error
            await self._carry_out(changes, config)
        finally:
            self._lock.release()

    def _as_answer(self, error: ConfigProblems) -> BadRequest:
        one = error.problems[0]
        return BadRequest(one.what, where=one.where.removeprefix(f"{self._source.where}: "), why=one.why, hint=one.hint)

    async def _carry_out(self, changes: Changes, config: Config) -> None:
        await self._serving.prepare(plan_of(config))
        try:
            await self._save(changes)
        except BaseException:
            await self._serving.abandon()
            raise
        self._changes, self._config = changes, config
        await self._serving.commit()

    async def _save(self, changes: Changes) -> None:
        await self._run(lambda: change_file.write_changes(self._directory, changes))

    def _tell(self, text: str, subject: str) -> None:
        self.log.info("{text}", text=text)
        self._events.add("change", text, subject=subject)

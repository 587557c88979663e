"""The targets of a running node: every change checked, carried out, kept, and there again after a restart."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred, succeed

from csvd.api.errors import BadRequest, NotFound, Refused
from csvd.api.events import EventRing
from csvd.config.load import Source
from csvd.errors import ConfigError
from csvd.exports import changes as change_file
from csvd.exports.administration import Administration
from csvd.exports.local import LocalServing, Portals
from csvd.iscsi.access import Access
from csvd.storage.pool import DiskPool
from csvd.target.kept_state import KeptState
from csvd.target.listener import PortalError
from csvd.target.service import TargetService
from csvd.target.units import Units
from tests.unit.storage.reactor_loop import run_in_reactor

ONE = "iqn.2026-11.org.example:one"
TWO = "iqn.2026-11.org.example:two"
HOST = "iqn.2026-11.org.example:host"
OTHER = "iqn.2026-11.org.example:other"
SIZE = 1 << 20

CONFIGURATION = f"""
[node]
name = "n"
state_directory = "state"
[target]
name = "{ONE}"
portals = ["127.0.0.1:0"]
[[target.lun]]
number = 0
disk = "a.img"
create = {SIZE}
"""


class Node:
    """What a daemon has of it."""

    def __init__(self, reactor: Any, folder: Path, text: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        self.pool = DiskPool(reactor)
        self.keeper = KeptState(self.state / "units", self.pool)
        self.units = Units(self.pool)
        self.events = EventRing()
        self.service = TargetService(reactor, [], keeper=self.keeper)
        self.fails: Exception | None = None
        self.serving = LocalServing(
            self.service,
            self.units,
            self.keeper,
            portals=Portals(self.service),
            run=self._run,
            tell=lambda *_: None,
        )
        self.exports = Administration(
            Source(tomllib.loads(text), "csvd.toml", folder),
            self.state,
            serving=self.serving,
            run=self._run,
            events=self.events,
        )

    def _run(self, job: Callable[[], Any]) -> Deferred[Any]:
        if self.fails is not None:
            raise self.fails
        return succeed(job())

    async def stop(self) -> None:
        await self.serving.stop()
        await maybeDeferred(self.pool.stop)
        self.keeper.close()

    def device(self, name: str) -> Any:
        return self.service.entity.targets[name].router


def run(folder: Path, *parts: Callable[[Node], Awaitable[None]], text: str = CONFIGURATION) -> None:
    """Run each part on a node of its own, one after the other, over the same state."""

    async def main(reactor: Any) -> None:
        for part in parts:
            node = Node(reactor, folder, text)
            try:
                await node.exports.start()
                await part(node)
            finally:
                await node.stop()

    run_in_reactor(main)


def numbers(node: Node, name: str | None = None) -> list[int]:
    return [face["number"] for face in node.exports.luns(name)]


def test_it_serves_what_the_configuration_says(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        (target,) = node.exports.targets()
        assert (target["name"], target["origin"], target["unit_count"]) == (ONE, "file", 1)
        assert target["addresses"] == node.service.portals
        (lun,) = node.exports.luns()
        assert (lun["disk"], lun["size_bytes"], lun["origin"]) == (str(tmp_path / "a.img"), SIZE, "file")
        (portal,) = node.exports.portals()
        assert portal["targets"] == [ONE]

    run(tmp_path, part)


def test_everything_that_is_changed_is_there_after_a_restart(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def change(node: Node) -> None:
        await node.exports.add_lun(ONE, {"disk": str(tmp_path / "b.img"), "create": SIZE, "provisioning": "full"})
        await node.exports.create_target(TWO, {"alias": "second"})
        await node.exports.add_lun(TWO, {"number": 5, "disk": str(tmp_path / "b.img"), "vendor": "ACME"})
        await node.exports.set_target(ONE, {"queue_depth": 7})
        await node.exports.add_acl(TWO, HOST, {"luns": [5]})
        await node.exports.resize_lun(ONE, 0, 2 * SIZE, force=False)
        seen.append(told(node))

    def told(node: Node) -> Any:
        return [
            {key: value for key, value in node.exports.target(name).items() if key != "addresses"}
            for name in (ONE, TWO)
        ]

    async def look(node: Node) -> None:
        assert told(node) == seen[0]
        assert numbers(node, ONE) == [0, 1]
        assert numbers(node, TWO) == [5]
        first, second = node.service.unit(ONE, 1), node.service.unit(TWO, 5)
        assert first is not None
        assert second is not None
        assert first.device is second.device
        assert first.locks is second.locks
        assert node.service.entity.targets[ONE].queue_depth == 7
        assert node.exports.lun(ONE, 0)["size_bytes"] == 2 * SIZE
        assert node.exports.configuration()["origins"] == {
            ONE: "file, changed at run time: queue_depth",
            f"{ONE} lun 0": "file, changed at run time: create",
            f"{ONE} lun 1": "run time",
            TWO: "run time",
            f"{TWO} lun 5": "run time",
            f"{TWO} acl {HOST}": "run time",
        }

    run(tmp_path, change, look)


def test_what_is_removed_stays_away_and_its_disk_stays(tmp_path: Path) -> None:
    async def remove(node: Node) -> None:
        unit = node.service.unit(ONE, 0)
        assert unit is not None
        await node.exports.remove_lun(ONE, 0)
        assert unit.device.fileno() < 0
        await node.exports.create_target(TWO, {})
        await node.exports.remove_target(TWO, force=False)

    async def look(node: Node) -> None:
        assert numbers(node) == []
        assert [face["name"] for face in node.exports.targets()] == [ONE]
        assert (tmp_path / "a.img").stat().st_size == SIZE
        await node.exports.remove_target(ONE, force=False)
        assert node.service.portals == []

    async def look_again(node: Node) -> None:
        assert node.exports.targets() == []
        made = await node.exports.create_target(ONE, {"portals": ["127.0.0.1:0"]})
        assert made["origin"] == "run time"
        assert numbers(node) == []

    run(tmp_path, remove, look, look_again)


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda n: n.exports.create_target(ONE, {}), Refused, "the target is there already"),
        (lambda n: n.exports.create_target("disk", {}), ConfigError, "is not an iSCSI name"),
        (lambda n: n.exports.create_target(TWO, {"queue_dept": 1}), BadRequest, "is not a known key"),
        (lambda n: n.exports.set_target(TWO, {}), NotFound, "there is no such target"),
        (lambda n: n.exports.set_target(ONE, {"name": TWO}), BadRequest, "keeps its name"),
        (lambda n: n.exports.set_target(ONE, {"queue_depth": 0}), BadRequest, "not a whole number from 1"),
        (lambda n: n.exports.set_target(ONE, {"portals": ["192.0.2.1:1"]}), PortalError, "can not listen"),
        (lambda n: n.exports.remove_target(TWO, force=True), NotFound, "there is no such target"),
        (lambda n: n.exports.add_lun(ONE, {"disk": "/nowhere"}), ConfigError, "cannot be opened"),
        (lambda n: n.exports.add_lun(ONE, {}), BadRequest, "is missing"),
        (lambda n: n.exports.add_lun(ONE, {"disk": "a.img", "number": 0}), Refused, "LUN 0 is taken"),
        (lambda n: n.exports.add_lun(ONE, {"disk": "a.img", "number": "0"}), BadRequest, "a LUN is a whole number"),
        (lambda n: n.exports.add_lun(ONE, {"disk": "a.img", "naa": "12"}), BadRequest, "8 or 16 bytes"),
        (lambda n: n.exports.set_lun(ONE, 0, {"number": 1}), BadRequest, "keeps its number"),
        (lambda n: n.exports.set_lun(ONE, 9, {}), NotFound, "there is no LUN 9"),
        (lambda n: n.exports.remove_lun(ONE, 9), NotFound, "there is no LUN 9"),
        (lambda n: n.exports.resize_lun(ONE, 9, SIZE, force=False), NotFound, "there is no LUN 9"),
        (lambda n: n.exports.resize_lun(ONE, 0, SIZE + 1, force=False), ConfigError, "can not take this size"),
        (lambda n: n.exports.resize_lun(ONE, 0, SIZE // 2, force=False), Refused, "more than 524288"),
        (lambda n: n.exports.add_acl(ONE, "host", {}), ConfigError, "is not an iSCSI name"),
        (lambda n: n.exports.add_acl(ONE, HOST, {"networks": ["10.0.0.1/8"]}), BadRequest, "not an address or"),
        (lambda n: n.exports.remove_acl(ONE, HOST), NotFound, "is not in the access list"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(
    tmp_path: Path, change: Callable[[Node], Awaitable[Any]], error: type[Exception], what: str
) -> None:
    async def part(node: Node) -> None:
        before = (node.exports.configuration(), node.exports.portals(), node.service.portals)
        with pytest.raises(error, match=what):
            await change(node)
        assert (node.exports.configuration(), node.exports.portals(), node.service.portals) == before
        assert not (node.state / change_file.FILE_NAME).exists()

    run(tmp_path, part)


def test_a_change_that_can_not_be_kept_is_not_made(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        before = node.service.portals
        node.fails = ConfigError("can not be written", where="targets.json")
        keys = {"portals": ["127.0.0.1:0"], "portal_group_tag": 9}
        with pytest.raises(ConfigError, match="can not be written"):
            await node.exports.create_target(TWO, keys)
        with pytest.raises(ConfigError, match="can not be written"):
            await node.exports.remove_lun(ONE, 0)
        assert node.service.portals == before
        assert list(node.service.entity.targets) == [ONE]
        assert numbers(node) == [0]

    run(tmp_path, part)


def test_a_target_of_its_own_group_gets_its_portals_and_takes_them_along(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        (first,) = node.service.portals
        await node.exports.create_target(TWO, {"portals": ["127.0.0.1:0"], "portal_group_tag": 9})
        assert len(node.service.portals) == 2
        assert [each["targets"] for each in node.exports.portals()] == [[ONE], [TWO]]
        await node.exports.remove_target(TWO, force=False)
        assert node.service.portals == [first]

    run(tmp_path, part)


def test_a_smaller_size_takes_force_and_is_no_conflict_at_the_next_start(tmp_path: Path) -> None:
    async def shrink(node: Node) -> None:
        face = await node.exports.resize_lun(ONE, 0, SIZE // 2, force=True)
        assert face["size_bytes"] == SIZE // 2

    async def look(node: Node) -> None:
        assert node.exports.lun(ONE, 0)["size_bytes"] == SIZE // 2

    run(tmp_path, shrink, look)


def test_a_change_after_a_resize_leaves_the_logical_unit_alone(tmp_path: Path) -> None:
    """Its ``create`` is another one by then, which is no reason to open it anew under its initiators."""

    async def part(node: Node) -> None:
        for size in (2 * SIZE, SIZE):
            unit = node.service.unit(ONE, 0)
            await node.exports.resize_lun(ONE, 0, size, force=True)
            await node.exports.set_target(ONE, {"queue_depth": 7})
            assert node.service.unit(ONE, 0) is unit

    run(tmp_path, part)


def test_a_size_that_others_gave_a_file_is_taken(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        os.truncate(tmp_path / "a.img", 4 * SIZE)
        face = await node.exports.resize_lun(ONE, 0, None, force=False)
        assert face["size_bytes"] == 4 * SIZE
        unit = node.service.unit(ONE, 0)
        assert unit is not None
        assert unit.block_count == 4 * SIZE // 512

    run(tmp_path, part)


def test_the_first_entry_of_an_access_list_shuts_others_out_and_the_last_opens_nothing(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        def access() -> Access:
            return node.service.entity.targets[ONE].access

        assert access().initiators is None
        await node.exports.add_acl(ONE, HOST, {"luns": [3]})
        assert access().initiators == frozenset()
        assert list(access().rules) == [HOST]
        assert not access().shows(HOST, 0)
        with pytest.raises(Refused, match="in the access list already"):
            await node.exports.add_acl(ONE, HOST.upper(), {})
        await node.exports.remove_acl(ONE, HOST)
        assert access().initiators == frozenset()
        assert access().rules == {}
        await node.exports.set_target(ONE, {"initiators": None})
        assert access().initiators is None

    run(tmp_path, part)


def test_secrets_are_kept_by_the_names_of_their_files(tmp_path: Path) -> None:
    secret = tmp_path / "joe.secret"
    secret.touch(0o600)
    secret.write_text("a secret of joe")

    async def part(node: Node) -> None:
        chap = {"user": "joe", "secret_file": str(secret)}
        face = await node.exports.set_target(ONE, {"chap": chap})
        assert face["chap"]["secret_file"] == str(secret)
        assert node.service.entity.targets[ONE].access.credentials["joe"].secret == b"a secret of joe"
        assert node.service.entity.discovery_access.credentials.keys() == {"joe"}
        assert b"a secret" not in (node.state / change_file.FILE_NAME).read_bytes()
        assert "a secret" not in repr(node.exports.configuration())

    run(tmp_path, part)


def test_what_is_in_the_file_and_was_made_at_run_time_ends_the_start_with_a_clear_error(tmp_path: Path) -> None:
    async def add(node: Node) -> None:
        await node.exports.add_lun(ONE, {"disk": str(tmp_path / "a.img")})

    async def never(node: Node) -> None:
        raise AssertionError

    run(tmp_path, add)
    more = '[[target.lun]]\nnumber = 1\ndisk = "a.img"\n'
    with pytest.raises(ConfigError, match="number 1 is there, and was made at run time, too"):
        run(tmp_path, never, text=CONFIGURATION + more)


def test_changes_are_events(tmp_path: Path) -> None:
    async def part(node: Node) -> None:
        await node.exports.add_lun(ONE, {"disk": "a.img"})
        await node.exports.remove_lun(ONE, 1)
        assert [event["text"] for event in node.events.after(0)["events"]] == [
            f"LUN 1 of {ONE} was added",
            f"LUN 1 of {ONE} was removed",
        ]
        assert node.events.counts == {"change": 2}

    run(tmp_path, part)

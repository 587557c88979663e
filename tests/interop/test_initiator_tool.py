"""The tool's ls, info, lba-status and reserve, against tgtd and against csvd."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.targets import TARGETS, Export, Target

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


class Tool:
    """The program, and a target with two disks of 64 MiB."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_csvd = target.name == "csvd"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; it never shows a traceback."""
        command = [sys.executable, "-m", "initiator", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def text(self, *arguments: str) -> str:
        """Give what it prints; it must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Give the JSON that it prints."""
        return json.loads(self.text(*arguments, "--json"))


@pytest.fixture(params=["tgtd", "csvd"])
def tool(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Tool]:
    """Start a target; it is killed in the end."""
    disks = (scratch / "a.img", scratch / "b.img")
    target = TARGETS[request.param](Export(disks, create="64M"), scratch)
    yield Tool(target)
    if target.running:
        target.kill()


def test_ls_lists_the_units_of_a_portal(tool: Tool) -> None:
    (target,) = tool.json("ls", tool.target.portal)["targets"]
    disks = [unit for unit in target["luns"] if unit["type"] == "disk"]
    assert [unit["url"] for unit in disks] == list(tool.target.urls)
    assert {unit["size_bytes"] for unit in disks} == {64 * MIB}
    assert len({unit["identity"] for unit in disks} - {""}) == 2
    assert {unit["provisioning"] for unit in disks} == {"thin" if tool.is_csvd else "full"}
    lines = tool.text("ls", tool.target.url).splitlines()
    assert len([line for line in lines if "64.0 MiB" in line]) == 2


def test_info_tells_what_there_is_and_leaves_out_what_is_not(tool: Tool) -> None:
    found = tool.json("info", tool.target.url)
    assert found["caching"]["write_cache"] is True
    assert found["read_only"] is False
    assert found["reservations"]["keys"] == []
    assert {"write same", "verify", "lba status", "persistent reservations"} <= set(found["abilities"])
    lines = tool.text("info", tool.target.url)
    if tool.is_csvd:
        assert found["access"][0]["state"] == "active optimized"
        assert {"extended copy", "compare and write"} <= set(found["abilities"])
        assert "thin, unmap, unmapped blocks read as zeros" in lines
    else:
        assert found["access"] is None
        assert "Access" not in lines


def test_lba_status_shows_a_map_with_totals(tool: Tool, scratch: Path) -> None:
    url = tool.target.url
    data = scratch / "data"
    data.write_bytes(b"\xaa" * MIB)
    tool.text("write", url, str(data), "--offset", "8M")
    found = tool.json("lba-status", url)
    assert found["extents"] == [
        {"offset_bytes": 0, "length_bytes": 8 * MIB, "status": "deallocated"},
        {"offset_bytes": 8 * MIB, "length_bytes": MIB, "status": "mapped"},
        {"offset_bytes": 9 * MIB, "length_bytes": 55 * MIB, "status": "deallocated"},
    ]
    assert found["totals_bytes"] == {"deallocated": 63 * MIB, "mapped": MIB}
    part = tool.json("lba-status", url, "--offset", "8M", "--length", "512K", "--summary")
    assert part["totals_bytes"] == {"mapped": MIB // 2}
    assert "extents" not in part
    lines = tool.text("lba-status", url).splitlines()
    assert lines[2].split() == [str(8 * MIB), str(MIB), "mapped"]
    assert lines[-1] == f"mapped: {MIB} bytes (1.0 MiB, 1.6 %)"
    assert tool.run("lba-status", url, "--offset", "100").returncode == 1
    assert tool.run("lba-status", url, "--offset", "1T").returncode == 1


def test_what_one_call_registers_the_next_one_still_has(tool: Tool) -> None:
    url = tool.target.url
    assert "no keys" in tool.text("reserve", "show", url)
    tool.text("reserve", "register", url, "--key", "0x12")
    if not tool.is_csvd:
        # tgtd does not know a session again that logs in with its name and ISID: to it that is another nexus.
        assert tool.json("reserve", "show", url)["keys"] == ["0x12"]
        assert "RESERVATION CONFLICT" in tool.run("reserve", "clear", url, "--key", "0x12").stderr
        return
    assert tool.run("reserve", "register", url, "--key", "0x12").returncode == 1
    tool.text("reserve", "register", url, "--key", "0x34", "--old-key", "0x12")
    tool.text("reserve", "reserve", url, "--key", "0x34")
    shown = tool.json("reserve", "show", url)
    assert shown["keys"] == ["0x34"]
    assert shown["reservation"] == {"key": "0x34", "type": "write-exclusive-registrants-only"}
    assert "0x34" in tool.text("reserve", "show", url)
    assert "RESERVATION CONFLICT" in tool.run("write", url, __file__).stderr
    other = ("--isid", "800000000001")
    tool.text("reserve", "register", url, "--key", "0x99", *other)
    tool.text("reserve", "preempt", url, "--key", "0x34", "--victim", "0x99")
    assert tool.json("reserve", "show", url)["keys"] == ["0x34"]
    tool.text("reserve", "release", url, "--key", "0x34")
    assert tool.json("reserve", "show", url)["reservation"] is None
    tool.text("reserve", "unregister", url, "--key", "0x34")
    tool.text("reserve", "register", url, "--key", "0x1", "--ignore-existing")
    tool.text("reserve", "clear", url, "--key", "0x1")
    assert tool.json("reserve", "show", url)["keys"] == []
    assert tool.run("write", url, __file__).returncode == 0


def test_who_is_kept_out_still_sees_what_the_disk_is(scratch: Path) -> None:
    # On csvd alone: to tgtd every call of the tool is another nexus, and nobody could clear the reservation.
    with TARGETS["csvd"](Export((scratch / "a.img",), create="64M"), scratch) as target:
        tool, url = Tool(target), target.url
        tool.text("reserve", "register", url, "--key", "0x5")
        tool.text("reserve", "reserve", url, "--key", "0x5", "--type", "exclusive-access")
        other = ("--initiator-name", "iqn.2026-11.test:other")
        found = tool.json("info", url, *other)
        assert found["disk"]["size_bytes"] == 64 * MIB
        assert found["reservations"]["reservation"] == {"key": "0x5", "type": "exclusive-access"}
        assert found["disk"]["write_cache"] is None
        assert "64.0 MiB" in tool.text("ls", url, *other)
        assert "RESERVATION CONFLICT" in tool.run("read", url, "-o", "/dev/null", *other).stderr
        tool.text("reserve", "clear", url, "--key", "0x5")

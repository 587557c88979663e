"""A daemon whose logical unit is a LUN of another daemon, served by itself or by workers, from the start or added."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemon_rig import ROOT, TARGET, DaemonNode, Daemons

SECRET = "opensesame12345"
MIB = 1 << 20


def secret_file(daemons: Daemons) -> Path:
    path = daemons.folder / "joe.secret"
    path.touch(mode=0o600)
    path.write_text(SECRET)
    return path


def backing(daemons: Daemons) -> DaemonNode:
    more = f'[target.chap]\nuser = "joe"\nsecret_file = "{secret_file(daemons)}"\n'
    return daemons.node("node1", more=more, disk="backing.img").start().ready()


def front(daemons: Daemons, *, more: str, workers: int = 0) -> DaemonNode:
    node = daemons.node("node2", more=more, disk="own.img")
    text = node.config.read_text()
    node.config.write_text(text.replace("[node]\n", f"[node]\nworkers = {workers}\n"))
    return node.start().ready()


def lun_over(behind: DaemonNode, daemons: Daemons) -> str:
    disk = f"iscsi://joe@{behind.portal}/{TARGET}/0"
    return f'[[target.lun]]\nnumber = 1\ndisk = "{disk}"\ndisk_secret_file = "{secret_file(daemons)}"\n'


def csvd(node: DaemonNode, *arguments: str) -> Any:
    done = node.csvd(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def put(node: DaemonNode, lun: int, pattern: int) -> None:
    """Write 64 KiB of a byte at 1 MiB, durably."""
    url = f"iscsi://{node.portal}/{TARGET}/{lun}"
    command = [sys.executable, "-m", "initiator", "write", url, "-", "--offset", "1M"]
    subprocess.run(command, input=bytes([pattern]) * 65536, check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lun_of_another_daemon_is_served_shown_and_grows(daemons: Daemons, workers: int) -> None:
    behind = backing(daemons)
    node = front(daemons, more=lun_over(behind, daemons), workers=workers)
    listed = node.csvd("lun", "ls").stdout
    assert "iscsi, thin" in listed
    face = csvd(node, "lun", "show", "1")
    assert (face["disk_kind"], face["fence"], face["size_bytes"]) == ("iscsi", "persistent reservation", 16 * MIB)
    put(node, 1, 0x41)
    assert (daemons.folder / "backing.img").read_bytes()[MIB : MIB + 65536] == b"A" * 65536
    csvd(behind, "lun", "resize", "0", "32M")
    assert csvd(node, "lun", "resize", "1")["size_bytes"] == 32 * MIB
    refused = node.csvd("lun", "resize", "1", "64M")
    assert refused.returncode == 1
    assert "the size of a LUN is its target's to change" in refused.stderr
    assert node.terminate() == 0
    assert not any(SECRET in line for line in node.log)
    assert behind.terminate() == 0


def test_a_lun_of_another_daemon_is_added_and_removed_at_run_time(daemons: Daemons) -> None:
    behind = backing(daemons)
    node = front(daemons, more="")
    url = f"iscsi://joe@{behind.portal}/{TARGET}/0"
    missing = node.csvd("lun", "add", url, "--lun", "1")
    assert missing.returncode == 1
    assert "disk_secret_file" in missing.stderr
    created = node.csvd("lun", "add", url, "--lun", "1", "--create", "1G")
    assert created.returncode == 1
    assert "can not be created" in created.stderr
    csvd(node, "lun", "add", url, "--lun", "1", "--disk-secret-file", str(secret_file(daemons)))
    put(node, 1, 0x42)
    csvd(node, "lun", "rm", "1")
    assert csvd(behind, "session", "ls")["sessions"] == []
    assert (daemons.folder / "backing.img").read_bytes()[MIB : MIB + 65536] == b"B" * 65536

"""docs/cluster.md: every command runs as it stands there, each host of the guide a daemon of its own on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "cluster.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(GUIDE.read_text())
SETTINGS = next(code for language, code in BLOCKS if language == "toml")
COMMANDS = [code for language, code in BLOCKS if language == "console"]
HOSTS = {"node1": 1, "node2": 2, "node3": 3, "host": 9, "left": 11, "right": 12, "witness": 13}
OF_WEST = ("# left", "# right", "# witness")
PATIENCE_S = 40.0
"""A person types slower than this test: what a node can not do yet is tried again."""

PROGRAMS = {
    "csvd": 'exec {python} -m csvd "$@"',
    "csv-initiator": 'exec {python} -m initiator "$@"',
    "ssh": 'host=$1; shift; PATH={folder}/$host/bin:$PATH CSVD_SOCKET={folder}/$host/state/control.sock exec "$@"',
    "systemctl": """
        case "$*" in
        "start csvd")
            csvd run --config {here}/csvd.toml >{here}/out 2>>{here}/log </dev/null & echo $! >{here}/pid
            until grep -q ^ready {here}/out; do kill -0 $(cat {here}/pid); sleep 0.1; done ;;
        "stop csvd") pid=$(cat {here}/pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done ;;
        "kill -s KILL csvd") kill -KILL $(cat {here}/pid) ;;
        *) echo "no such thing: $*" >&2; exit 2 ;;
        esac""",
}


class Hosts:
    """The hosts of the guide: each a folder, a loopback address, and programs of their usual names."""

    def __init__(self) -> None:
        # Short: a control socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="cg-", dir="/tmp"))
        self._network = f"127.{os.getpid() % 250 + 2}.{os.getpid() // 250 % 250 + 2}."
        (self.folder / "shared").mkdir()
        for name in HOSTS:
            here = self.folder / name
            (here / "bin").mkdir(parents=True)
            settings = SETTINGS.replace("node1", name).replace("192.0.2.1", f"192.0.2.{HOSTS[name]}")
            (here / "csvd.toml").write_text(self._placed(settings, name))
            for program, script in PROGRAMS.items():
                path = here / "bin" / program
                text = script.format(python=sys.executable, folder=self.folder, here=here)
                path.write_text(f"#!/bin/bash\nset -e\n{text}\n")
                path.chmod(0o755)

    def _placed(self, text: str, host: str) -> str:
        here = self.folder / host
        for said, meant in (
            ("192.0.2.", self._network),
            ("/etc/csvd", str(here)),
            ("/var/lib/csvd", f"{here}/state"),
            ("/srv/shared", f"{self.folder}/shared"),
        ):
            text = text.replace(said, meant)
        return text

    def run(self, block: str) -> str:
        """Run the commands of a block, each at the host that its first line names; give what they print."""
        head, *lines = block.splitlines()
        host = head.removeprefix("# ")
        assert host in HOSTS, block
        return "".join(self._run(self._placed(line, host), host) for line in lines)

    def _run(self, line: str, host: str) -> str:
        here = self.folder / host
        environment = {
            **os.environ,
            "PATH": f"{here}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CSVD_SOCKET": f"{here}/state/control.sock",
        }
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line],
                cwd=here,
                env=environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
            assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"
            if done.returncode == 0:
                return done.stdout
            assert done.returncode == 1, f"{line}\n{done.stdout}{done.stderr}"
            assert time.monotonic() < deadline_s, f"{line}\n{done.stdout}{done.stderr}"
            time.sleep(0.5)

    def close(self) -> None:
        for name in HOSTS:
            pid = self.folder / name / "pid"
            if pid.exists():
                subprocess.run(["kill", "-KILL", pid.read_text().strip()], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


def test_the_guide_leads_from_three_hosts_to_a_disk_with_three_paths(hosts: Hosts) -> None:
    told = {block: hosts.run(block) for block in COMMANDS if not block.startswith(OF_WEST)}
    (discovered,) = (text for block, text in told.items() if block.startswith("# host"))
    assert len(re.findall(r":3260,(?:17|33|49)\b", discovered)) == 3, discovered
    assert any("node node1: unavailable" in text for text in told.values())


def test_the_guide_leads_to_two_nodes_and_a_witness(hosts: Hosts) -> None:
    blocks = [block for block in COMMANDS if block.startswith(OF_WEST)]
    told = [hosts.run(block) for block in blocks]
    assert len(told) == 6
    assert "is changed" in told[-1]


def test_what_the_guide_does_not_run_is_for_other_hosts() -> None:
    assert {language for language, _ in BLOCKS} == {"toml", "console", ""}
    assert len(COMMANDS) >= 15
    plain = [code for language, code in BLOCKS if not language]
    assert [code.split()[0] for code in plain] == ["iscsiadm", "#"]
    assert plain[1].startswith("# /etc/multipath.conf")


def test_the_links_within_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in FENCE.sub("", text).splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= headings
    for name in re.findall(r"\(([a-z-]+\.md)\)", text):
        assert (GUIDE.parent / name).exists()

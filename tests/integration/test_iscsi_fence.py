"""A node is stopped in the middle of its writes, fenced by another one, and woken: nothing of it lands any more."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import Export, Target, start_csvd

SIZE = 16 << 20
TIME_LIMIT_S = 60
REPOSITORY = Path(__file__).parents[2]


class Node:
    """A process of `tests.integration.iscsi_node`."""

    def __init__(self, url: str, name: str, *words: str) -> None:
        command = [sys.executable, "-m", "tests.integration.iscsi_node", url, name, *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def expect(self, line: str) -> None:
        assert self.line() == line

    def rest(self) -> list[str]:
        """Its last lines, after it has ended by itself."""
        out, _ = self.process.communicate(timeout=TIME_LIMIT_S)
        assert self.process.returncode == 0, out
        return out.splitlines()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            self.has_stopped()

    def has_stopped(self) -> None:
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Site:
    """A target with one disk, which keeps reservations, and the nodes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk.img"
        self.nodes: list[Node] = []
        self.target = self._start(0)

    def _start(self, port: int) -> Target:
        options = ("--state-directory", str(self.folder / "state"))
        return start_csvd(Export((self.disk,), create=str(SIZE), port=port, options=options), self.folder)

    def restart(self, *, kill: bool) -> None:
        port = int(self.target.portal.rpartition(":")[2])
        if kill:
            self.target.kill()
        else:
            self.target.stop()
        self.target = self._start(port)

    def node(self, name: str, *words: str) -> Node:
        self.nodes.append(Node(self.target.url, name, *words))
        return self.nodes[-1]

    def has_only(self, letter: str) -> bool:
        return self.disk.read_bytes() == letter.encode() * SIZE

    def end(self) -> None:
        for node in self.nodes:
            node.end()
        if self.target.running:
            self.target.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


@pytest.mark.parametrize("after", [1, 3])
def test_late_writes_of_a_node_that_was_fenced_while_it_was_stopped_are_refused(site: Site, after: int) -> None:
    writer = site.node("b", "write", "b")
    writer.expect("joined")
    for number in range(after):
        writer.expect(f"wrote {number}")
    # It has 16 MiB of writes under way all the time: some are sent in part, some wait in its socket.
    writer.signal(signal.SIGSTOP)
    fencer = site.node("a", "fence", "b", "a")
    assert fencer.rest() == ["joined", "fenced", "done"]
    assert site.has_only("a")
    writer.signal(signal.SIGCONT)
    told = [line for line in writer.rest() if not line.startswith("wrote ")]
    assert told[-1] == "read a"
    assert told[-2] == f"error {errno.EBADE}"
    assert all(line.startswith("error") for line in told[:-1])
    assert site.has_only("a")


def test_a_write_of_which_a_part_was_sent_never_lands(site: Site) -> None:
    writer = site.node("b", "stop", "b")
    writer.expect("joined")
    writer.has_stopped()
    assert site.disk.read_bytes() != b"b" * SIZE
    assert site.node("a", "fence", "b", "a").rest() == ["joined", "fenced", "done"]
    writer.signal(signal.SIGCONT)
    told = writer.rest()
    assert told[-2:] == [f"error {errno.EBADE}", "read a"]
    assert all(line.startswith("error") for line in told[:-1])
    assert site.has_only("a")


@pytest.mark.parametrize("kill", [True, False])
def test_a_fence_holds_when_another_has_left_and_the_target_has_started_anew(site: Site, kill: bool) -> None:
    writer = site.node("b", "write", "b")
    writer.expect("joined")
    writer.expect("wrote 0")
    writer.signal(signal.SIGSTOP)
    assert site.node("a", "fence", "b", "a").rest() == ["joined", "fenced", "done"]
    assert site.node("d", "leave").rest() == ["joined", "left"]
    site.restart(kill=kill)
    assert site.node("c", "intrude", "c").rest() == [f"error {errno.EBADE}"]
    assert site.node("a", "fence", "b", "A").rest() == ["joined", "fenced", "done"]
    writer.signal(signal.SIGCONT)
    assert writer.rest()[-2:] == [f"error {errno.EBADE}", "read A"]
    assert site.has_only("A")


def test_a_node_writes_on_when_the_target_has_started_anew_without_joining_again(site: Site) -> None:
    writer = site.node("b", "write", "b")
    writer.expect("joined")
    writer.expect("wrote 0")
    site.restart(kill=True)
    # Under way are one round or two: the third was begun after the restart.
    for _ in range(3):
        assert writer.line().startswith("wrote ")
    assert site.node("c", "intrude", "c").rest() == [f"error {errno.EBADE}"]
    assert site.node("a", "fence", "b", "a").rest() == ["joined", "fenced", "done"]
    assert writer.rest()[-2:] == [f"error {errno.EBADE}", "read a"]
    assert site.has_only("a")

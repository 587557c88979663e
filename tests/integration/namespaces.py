"""Hosts of their own: network namespaces on one bridge, whose links can be cut both ways and one way.

A host is a process that sleeps in a network and a mount namespace of its own; others are started in it by nsenter(1).
Nothing is visible outside, and nothing is left behind: the kernel ends the sleepers with the process that made them,
and takes namespaces, links and mounts away with the last process in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NETWORK: Final = "10.77.0"
_NEEDED: Final = ("ip", "mount", "nft", "nsenter", "setpriv", "unshare")
_PATH: Final = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
_TABLE: Final = "inet cut"
_NO_CUTS: Final = f"""
    table {_TABLE} {{
        chain hears {{ type filter hook input priority 0; policy accept; }}
        chain says {{ type filter hook output priority 0; policy accept; }}
    }}
"""


def why_not() -> str:
    """Why namespaces can not be made here; empty where they can."""
    if missing := [name for name in _NEEDED if shutil.which(name, path=_PATH) is None]:
        return f"no program {', '.join(missing)}"
    done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() and f"no namespaces: {done.stderr.strip()}"


def run(*words: str, given: str = "") -> str:
    """Run a program to its end; gives what it printed.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        words, input=given, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "PATH": _PATH}
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


class Host:
    """One host of a world.

    Args:
        number: 1 to 254, of its address.
    """

    def __init__(self, number: int) -> None:
        self.address = f"{NETWORK}.{number}"
        self._sleeper = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "sh", "-c", "echo; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._sleeper.stdout is not None
        assert self._sleeper.stdout.readline() == b"\n", "the host has no namespaces"
        self.run("ip", "link", "set", "lo", "up")
        self.run("nft", "-f", "-", given=_NO_CUTS)

    @property
    def process_id(self) -> int:
        """Of the process that holds it."""
        return self._sleeper.pid

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command line that have it run here; its process is the one that was started."""
        # The kernel ends it with the test, too: with nothing else the process would outlive it.
        # Another mount namespace begins at its root: what is started is to find what this process finds where it is.
        here = f"--wd={os.getcwd()}"
        return ("nsenter", f"--target={self.process_id}", "--net", "--mount", here, "setpriv", "--pdeathsig", "KILL")

    def run(self, *words: str, given: str = "") -> str:
        """Run a program here to its end; gives what it printed."""
        return run(*self.prefix, *words, given=given)

    def mount_small(self, folder: Path, size_bytes: int) -> Path:
        """Mount a file system of this size on a folder, for what runs here; gives its path for all others."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
        return Path(f"/proc/{self.process_id}/root{folder}")

    def deafen(self, *to: Host) -> None:
        """From now on nothing that others send is heard here: packets are lost without a word."""
        self._drop("hears ip saddr", to)

    def mute(self, *to: Host) -> None:
        """From now on nothing that is sent from here reaches others."""
        self._drop("says ip daddr", to)

    def _drop(self, match: str, others: Iterable[Host]) -> None:
        rules = "".join(f"add rule {_TABLE} {match} {other.address} drop\n" for other in others if other is not self)
        self.run("nft", "-f", "-", given=rules)

    def heal(self) -> None:
        """Everything is heard and said again."""
        self.run("nft", "flush", "table", *_TABLE.split())

    def close(self) -> None:
        """End it; what else runs here must have ended."""
        self._sleeper.kill()
        self._sleeper.communicate()


class World:
    """Hosts on one bridge; the bridge is in a host of its own.

    Args:
        count: of hosts.
    """

    def __init__(self, count: int) -> None:
        self._all: list[Host] = []
        try:
            self._hub = self._made(254)
            self._hub.run("ip", "link", "add", "bridge", "type", "bridge")
            self._hub.run("ip", "link", "set", "bridge", "up")
            self.hosts = [self._made(number) for number in range(1, count + 1)]
            for number, host in enumerate(self.hosts, 1):
                self._join(number, host)
        except BaseException:
            self.close()
            raise

    def _made(self, number: int) -> Host:
        self._all.append(Host(number))
        return self._all[-1]

    def _join(self, number: int, host: Host) -> None:
        hub, near = self._hub, f"port{number}"
        peer = ("peer", "name", "eth0", "netns", str(host.process_id))
        hub.run("ip", "link", "add", near, "type", "veth", *peer)
        hub.run("ip", "link", "set", near, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")

    def cut(self, near: Host, *far: Host) -> None:
        """Cut one host from others, both ways; from all where none is named."""
        others = far or tuple(self.hosts)
        near.deafen(*others)
        near.mute(*others)

    def heal(self) -> None:
        """Mend all links."""
        for host in self.hosts:
            host.heal()

    def close(self) -> None:
        """Take everything away."""
        while self._all:
            self._all.pop().close()


@contextmanager
def world(count: int) -> Iterator[World]:
    """A world, and its end."""
    made = World(count)
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    if reason := why_not():
        raise SystemExit(reason)

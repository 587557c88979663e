"""The hosts of the rig themselves: their links can be cut in each direction, and nothing of them is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.namespaces import Host, world

# Says what it hears, and from whom; what it is told to say, it says.
TALKER = """
import socket, sys
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
me.bind(("0.0.0.0", 9))
print("up", flush=True)
while True:
    print(*reversed(me.recvfrom(100)), flush=True)
"""
SAY = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9))"


class Listener:
    """Counts what a host hears."""

    def __init__(self, host: Host) -> None:
        self.process = subprocess.Popen([*host.prefix, sys.executable, "-c", TALKER], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def say(near: Host, to: Host) -> None:
    subprocess.run([*near.prefix, sys.executable, "-c", SAY, to.address], check=False, stderr=subprocess.DEVNULL)


def test_links_are_cut_in_one_direction_or_both_and_mended() -> None:
    with world(3) as made:
        one, two, three = made.hosts
        listener = Listener(two)
        try:
            say(one, two)
            assert one.address in listener.heard()
            two.deafen(one)
            say(one, two)
            say(three, two)
            assert three.address in listener.heard()
            made.heal()
            one.mute(two)
            say(one, two)
            say(three, two)
            assert three.address in listener.heard()
            made.heal()
            made.cut(two)
            say(three, two)
            made.heal()
            say(one, two)
            assert one.address in listener.heard()
        finally:
            listener.close()


def test_a_small_file_system_is_full_for_its_host_and_not_there_for_others(tmp_path: Path) -> None:
    with world(1) as made:
        (host,) = made.hosts
        inside = host.mount_small(tmp_path, 64 << 10)
        (inside / "file").write_bytes(bytes(32 << 10))
        assert not (tmp_path / "file").exists()
        with pytest.raises(OSError, match="No space left"):
            (inside / "more").write_bytes(bytes(64 << 10))


def test_nothing_is_left_behind() -> None:
    with world(2) as made:
        sleepers = [host.process_id for host in made.hosts]
        assert made.hosts[0].run("ip", "-brief", "link").count("eth0") == 1
    for process_id in sleepers:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
    assert not any(name.startswith("port") for _, name in socket.if_nameindex())

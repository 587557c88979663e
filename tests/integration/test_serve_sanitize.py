"""SANITIZE over a killed and restarted `csvd serve`: it is not taken for done, and goes on to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bad_peers.peer import Peer
from tests.bench.targets import IQN, Export, Target, start_csvd

SIZE_BYTES = 256 << 20
TEST_UNIT_READY = "00 00 00 00 00 00"
PATTERN = b"\xa5\x5a\x3c"
DEADLINE_S = 120


def ask(target: Target, cdb: str) -> tuple[int, bytes]:
    """Status and sense data of one command on a session of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.scsi_command", target.url, cdb],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    status, sense, _data = done.stdout.split()
    return int(status, 16), bytes.fromhex(sense.replace("-", ""))


def ask_at_once(target: Target) -> tuple[int, bytes]:
    """Status and sense data of TEST UNIT READY, before a program could be started that asks."""
    host, _, port = target.portal.rpartition(":")
    with Peer((host, int(port)), IQN) as peer:
        peer.login()
        peer.send(peer.command_pdu(bytes(6)))
        answer = peer.next_pdu()
    assert answer is not None
    return answer[0].status, answer[1][2:]


def is_in_progress(status: int, sense: bytes) -> bool:
    return status == 2 and (sense[2] & 0x0F, sense[12], sense[13]) == (0x2, 0x04, 0x1B)


def test_a_sanitize_that_is_killed_goes_on_after_the_restart(tmp_path: Path) -> None:
    disk = tmp_path / "a.img"
    with disk.open("wb") as file:
        file.truncate(SIZE_BYTES)
    export = Export((disk,), options=("--state-directory", str(tmp_path / "state")))
    parameters = bytes((1, 0, 0, len(PATTERN))) + PATTERN
    with start_csvd(export, tmp_path) as target:
        host, _, port = target.portal.rpartition(":")
        with Peer((host, int(port)), IQN) as peer:
            peer.login()
            peer.send(peer.command_pdu(bytes((0x48, 0x81, 0, 0, 0, 0, 0, 0, len(parameters), 0)), data=parameters))
            answer = peer.next_pdu()
            target.kill()
        assert answer is not None
        assert answer[0].status == 0
    block = (PATTERN * 171)[:512]
    with disk.open("rb") as file:
        file.seek(SIZE_BYTES - 512)
        assert file.read() == bytes(512), "it was killed in the middle"
    with start_csvd(export, tmp_path) as target:
        assert is_in_progress(*ask_at_once(target))
        until = time.monotonic() + DEADLINE_S
        while is_in_progress(*ask(target, TEST_UNIT_READY)):
            assert time.monotonic() < until
            time.sleep(0.5)
        assert ask(target, TEST_UNIT_READY)[0] == 0
        with disk.open("rb") as file:
            for _ in range(0, SIZE_BYTES, 1 << 20):
                assert file.read(1 << 20) == block * 2048
        assert target.stop() == 0
    with start_csvd(export, tmp_path) as target:
        assert ask(target, TEST_UNIT_READY)[0] == 0
        assert target.stop() == 0
        assert "Traceback" not in target.log()

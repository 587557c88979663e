"""What an initiator sets with SP outlives the process that acknowledged it, whatever ends that process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.test_serve import TIMEOUT_S, Serving, served

__all__ = ["served"]

GOOD = "00"
SWP_SAVED = "15 11 00 00 10 00"
CONTROL_WITH_SWP = "00000000 0A 0A 02 10 08 00 0000 0000 0000"
CONTROL_PAGE = "1A 08 0A 00 FF 00"
SAVED_CONTROL_PAGE = "1A 08 CA 00 FF 00"
WRITE_10 = "2A 00 00000000 00 0001 00"
SET_LABEL = "A4 06 00000000 00000007 00 00"
LABEL = "A3 05 00000000 000000FF 00 00"


def scsi(url: str, cdb: str, last: str = "") -> list[str]:
    """Status, sense data and Data-In of one command, as hexadecimal digits."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.scsi_command", url, cdb, last],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_saved_mode_parameters_and_a_label_outlive_a_kill(tmp_path: Path, served: list[Serving]) -> None:
    def serve() -> str:
        serving = Serving(tmp_path / "disk.img", "--create", "16M", "--state-directory", tmp_path / "state")
        served.append(serving)
        return serving.url()

    url = serve()
    assert scsi(url, SWP_SAVED, CONTROL_WITH_SWP)[0] == GOOD
    assert scsi(url, SET_LABEL, b"shelf 4".hex())[0] == GOOD
    served[0].process.send_signal(signal.SIGKILL)
    served[0].process.communicate(timeout=TIMEOUT_S)
    url = serve()
    for page in (CONTROL_PAGE, SAVED_CONTROL_PAGE):
        status, _, data = scsi(url, page, "+255")
        assert (status, data[8:18]) == (GOOD, "8a0a021008")
    status, sense, _ = scsi(url, WRITE_10, "00" * 512)
    assert (status, sense[4:6], sense[24:28]) == ("02", "07", "2702")
    assert scsi(url, LABEL, "+255")[2] == "00000007" + b"shelf 4".hex()

"""An image that is half holes, copied to a LUN and from it: by csv-initiator and by qemu-img, one after the other."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.clients import INITIATOR
from tests.bench.files import CHUNK_BYTES, write_out
from tests.bench.loads import TIMEOUT_FLOOR_S, LoadFailed
from tests.bench.machine import ROOT
from tests.bench.scenes import Stage
from tests.bench.targets import TARGETS, Export

IMAGE_BYTES: Final = 2 << 30
RUN_BYTES: Final = 16 << 20
"""Data and holes take turns."""

QEMU: Final = ("qemu-img", "convert", "-f", "raw", "-O", "raw")
AT_ITS_BEST: Final = ("-W", "-m", "16", "-t", "none")
"""Out of order, 16 at a time, past the page cache, and durable in the end as our copy is."""


def copy_to_lun(stage: Stage) -> dict[str, float]:
    """A file to a LUN that is empty before."""
    with _scene(stage) as (image, lun, url, environment):
        image_of(image)

        def empty() -> None:
            subprocess.run(
                ["fallocate", "--punch-hole", "--offset", "0", "--length", str(IMAGE_BYTES), lun], check=True
            )
            write_out(lun)

        def timed(command: Sequence[str]) -> float:
            empty()
            took_s = seconds(command, environment)
            _check_same(image, lun)
            return took_s

        return _figures(
            timed,
            [*INITIATOR, "copy", str(image), url],
            [*QEMU, "-n", *AT_ITS_BEST, str(image), url],
            [*QEMU, "-n", str(image), url],
        )


def copy_from_lun(stage: Stage) -> dict[str, float]:
    """A LUN to a file that is not there before."""
    with _scene(stage) as (image, lun, url, environment):
        image_of(lun)

        def timed(command: Sequence[str]) -> float:
            image.unlink(missing_ok=True)
            took_s = seconds(command, environment)
            write_out(image)
            _check_same(image, lun)
            return took_s

        return _figures(
            timed,
            [*INITIATOR, "copy", url, str(image)],
            [*QEMU, *AT_ITS_BEST, url, str(image)],
            [*QEMU, url, str(image)],
        )


def _figures(
    timed: Callable[[Sequence[str]], float], ours: Sequence[str], best: Sequence[str], default: Sequence[str]
) -> dict[str, float]:
    """Seconds of each, and `to_qemu`: how many times as long qemu-img takes with its best flags."""
    ours_s, best_s, default_s = timed(ours), timed(best), timed(default)
    return {"ours_s": ours_s, "qemu_s": best_s, "qemu_default_s": default_s, "to_qemu": best_s / ours_s}


@contextmanager
def _scene(stage: Stage) -> Iterator[tuple[Path, Path, str, Mapping[str, str]]]:
    """A target of the stage's kind with one LUN that is long enough: the image's path, the LUN's, and its URL; and the
    environment of the copies, in which Python finds its modules compiled, as where they are installed."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        image, lun = Path(folder) / "image", Path(folder) / "lun"
        with lun.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        compiled = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder) / "compiled")}
        compiled.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds([*INITIATOR, "copy", "--help"], compiled)
        with TARGETS[stage.target.name](Export((lun,)), Path(folder)) as target:
            yield image, lun, target.url, compiled
            target.stop()


def image_of(path: Path) -> None:
    """Make an image of IMAGE_BYTES, in place: runs of random data and holes take turns. It stays in the page cache."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(IMAGE_BYTES)
        for begin in range(0, IMAGE_BYTES, 2 * RUN_BYTES):
            file.seek(begin)
            for _ in range(RUN_BYTES // CHUNK_BYTES):
                file.write(os.urandom(CHUNK_BYTES))
    write_out(path)


def seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """How long a program takes from its start to its end.

    Raises:
        LoadFailed: it failed, or took far too long.
    """
    begin_s = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=2 * TIMEOUT_FLOOR_S, cwd=ROOT, env=environment
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{' '.join(command)}: not done after {2 * TIMEOUT_FLOOR_S:.0f} s") from None
    took_s = time.monotonic() - begin_s
    if done.returncode:
        raise LoadFailed(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr}")
    return took_s


def _check_same(image: Path, lun: Path) -> None:
    if subprocess.run(["cmp", "-s", str(image), str(lun)], check=False).returncode:
        raise LoadFailed("what was copied is not what was to be copied")

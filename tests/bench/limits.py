"""The absolute limits beside each row: a null target in C, csvd over a disk that keeps nothing, and the file alone.

The two programs in C are compiled where there is a compiler. Where there is none, their figures are left out.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.bench.loads import LoadFailed, run_client
from tests.bench.machine import ROOT
from tests.bench.targets import Export, Target, TargetFailed, spawn, start_csvd, wait_until, whole_lines

NULL: Final = "null target"
CSVD_NULL: Final = "csvd over null:"
IN_C: Final = "file alone, C"
IN_PYTHON: Final = "file alone, Python"
SOURCES: Final = ROOT / "tests" / "bench"
COMPILERS: Final = ("cc", "gcc", "clang")
BATCH: Final = 16


def compiler() -> str | None:
    """A C compiler, if this machine has one."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def compile_c(name: str, folder: Path) -> Path:
    """Compile `name`.c of this folder into another.

    Raises:
        TargetFailed: the compiler refused it.
    """
    program = folder / name
    command = [compiler() or COMPILERS[0], "-O2", "-D_GNU_SOURCE", "-o", str(program), str(SOURCES / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise TargetFailed(f"{' '.join(command)}: {done.stderr}")
    return program


def start_null(program: Path, disk_mib: int, folder: Path) -> Target:
    """Start the null target and wait until it listens.

    Raises:
        TargetFailed: it ended, or did not say `ready` in time.
    """
    output, log = folder / "null.stdout", folder / "null.stderr"
    process = spawn([str(program), str(disk_mib)], output, log)

    def port() -> int | None:
        return next((int(line.split()[1]) for line in whole_lines(output) if line.startswith("ready ")), None)

    url = f"iscsi://127.0.0.1:{wait_until(port, NULL, process, log)}/iqn.2026-11.io.csvd.test:null/0"
    return Target(NULL, process, [url], log, process.terminate)


def start_csvd_null(disk_mib: int, folder: Path) -> Target:
    """Start csvd over `null:`, a disk that keeps nothing.

    Raises:
        TargetFailed: as start_csvd.
    """
    target = start_csvd(Export((Path(f"null:{disk_mib}M"),)), folder)
    target.name = CSVD_NULL
    return target


def in_c(program: Path, disk: Path, block_bytes: int, duration_s: float, *, writes: bool) -> dict[str, float]:
    """pread or pwrite of random blocks, one after another, in C.

    Raises:
        LoadFailed: it failed, or its figures cannot be read.
    """
    word = "write" if writes else "read"
    return parse_file_limit(run_client([str(program), word, str(disk), str(block_bytes), str(duration_s)], 60))


def parse_file_limit(printed: str) -> dict[str, float]:
    """
    Raises:
        LoadFailed: it is not what file_limit.c prints.
    """
    found = re.fullmatch(r"(\d+) requests in (\d+\.\d+) s\n", printed)
    if found is None or not float(found[2]):
        raise LoadFailed(f"file_limit gave no figures: {printed!r}")
    return {"requests": float(found[1]), "requests_per_s": int(found[1]) / float(found[2])}


def in_python(
    disk: Path, block_bytes: int, duration_s: float, *, writes: bool, durable: bool = False
) -> dict[str, float]:
    """The same from Python: preadv into one buffer, or pwrite; `durable`: each followed by its fdatasync."""
    chance, slots = random.Random(0), disk.stat().st_size // block_bytes
    offsets = [chance.randrange(slots) * block_bytes for _ in range(1 << 12)]
    # In pages of its own, as tests/bench/file_limit.c has it: a copy may be several times slower into other places.
    data, done = mmap.mmap(-1, block_bytes), 0
    data[:] = chance.randbytes(block_bytes)
    fd = os.open(disk, os.O_RDWR if writes else os.O_RDONLY)
    try:
        begin_s = time.perf_counter()
        while (now_s := time.perf_counter()) < begin_s + duration_s:
            first = done % len(offsets)
            for offset in offsets[first : first + (1 if durable else BATCH)]:
                if writes:
                    os.pwrite(fd, data, offset)
                    if durable:
                        os.fdatasync(fd)
                else:
                    os.preadv(fd, (data,), offset)
                done += 1
    finally:
        os.close(fd)
    return {"requests": float(done), "requests_per_s": done / (now_s - begin_s)}

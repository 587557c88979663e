"""The rows of the benchmark: loads, scenes of several clients, and the file alone; and on which targets each runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench.clients import random_reads
from tests.bench.copies import copy_from_lun, copy_to_lun
from tests.bench.limits import CSVD_NULL, IN_C, IN_PYTHON, NULL
from tests.bench.loads import KIB, Generated, Load, RandomRead, ScatteredWrite
from tests.bench.scenes import Stage, cold_file, fairness, idle_sessions

OURS: Final = "csvd"
THEIRS: Final = "tgtd"
LIMITS: Final = (NULL, CSVD_NULL, IN_C, IN_PYTHON)
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One load, by its rate.

    Args:
        key: names it on the command line and in the record.
        alone: the FileRow that has the physical limit of its file side.
    """

    key: str
    title: str
    load: Load
    alone: str

    @property
    def targets(self) -> tuple[str, ...]:
        return OURS, THEIRS, NULL, CSVD_NULL

    @property
    def has_digests(self) -> bool:
        return isinstance(self.load, Generated) and self.load.digests


@dataclass(frozen=True, slots=True)
class SceneRow:
    """Several clients at once, or memory: figures of its own."""

    key: str
    title: str
    play: Callable[[Stage], dict[str, float]]
    targets: tuple[str, ...] = (OURS, THEIRS)


@dataclass(frozen=True, slots=True)
class FileRow:
    """The file without a target: one call after another, from C and from Python; `durable` writes from Python only."""

    key: str
    title: str
    block_bytes: int
    writes: bool
    durable: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        return (IN_PYTHON,) if self.durable else (IN_C, IN_PYTHON)


Row = LoadRow | SceneRow | FileRow

ROWS: Final[tuple[Row, ...]] = (
    FileRow("file-read-4k", "pread of 4 KiB", 4 * KIB, writes=False),
    FileRow("file-read-256k", "pread of 256 KiB", 256 * KIB, writes=False),
    FileRow("file-read-1m", "pread of 1 MiB", MIB, writes=False),
    FileRow("file-write-4k", "pwrite of 4 KiB", 4 * KIB, writes=True),
    FileRow("file-write-256k", "pwrite of 256 KiB", 256 * KIB, writes=True),
    FileRow("file-write-1m", "pwrite of 1 MiB", MIB, writes=True),
    FileRow("file-durable-4k", "pwrite of 4 KiB and fdatasync", 4 * KIB, writes=True, durable=True),
    LoadRow("read-4k-d1", "4 KiB random read, depth 1", RandomRead(4 * KIB, 1), "file-read-4k"),
    LoadRow("read-4k-d32", "4 KiB random read, depth 32", RandomRead(4 * KIB, 32), "file-read-4k"),
    LoadRow("read-256k-d32", "256 KiB random read, depth 32", RandomRead(256 * KIB, 32), "file-read-256k"),
    LoadRow("read-1m-d32", "1 MiB random read, depth 32", RandomRead(MIB, 32), "file-read-1m"),
    LoadRow("aligned-read-4k-d1", "4 KiB aligned read, depth 1", Generated(4 * KIB, 1), "file-read-4k"),
    LoadRow("aligned-read-4k-d32", "4 KiB aligned read, depth 32", Generated(4 * KIB, 32), "file-read-4k"),
    LoadRow("aligned-read-256k-d32", "256 KiB aligned read, depth 32", Generated(256 * KIB, 32), "file-read-256k"),
    LoadRow("aligned-read-1m-d32", "1 MiB aligned read, depth 32", Generated(MIB, 32), "file-read-1m"),
    LoadRow("write-4k-d1", "4 KiB random write, depth 1", Generated(4 * KIB, 1, reads=0), "file-write-4k"),
    LoadRow("write-4k-d32", "4 KiB random write, depth 32", Generated(4 * KIB, 32, reads=0), "file-write-4k"),
    LoadRow("write-256k-d32", "256 KiB random write, depth 32", Generated(256 * KIB, 32, reads=0), "file-write-256k"),
    LoadRow("write-1m-d32", "1 MiB random write, depth 32", Generated(MIB, 32, reads=0), "file-write-1m"),
    LoadRow(
        "mix-4k-8x8",
        "4 KiB random, 70 % read, 8 sessions of depth 8",
        Generated(4 * KIB, 8, reads=70, sessions=8),
        "file-read-4k",
    ),
    LoadRow(
        "qemu-write-4k-d32",
        "4 KiB scattered write by qemu-img, depth 32",
        ScatteredWrite(4 * KIB, 32, 20_000),
        "file-write-4k",
    ),
    LoadRow(
        "digest-read-256k",
        "256 KiB aligned read, depth 32, data digest",
        Generated(256 * KIB, 32, digests=True),
        "file-read-256k",
    ),
    LoadRow(
        "digest-write-256k",
        "256 KiB random write, depth 32, data digest",
        Generated(256 * KIB, 32, reads=0, digests=True),
        "file-write-256k",
    ),
    LoadRow(
        "fua-write-4k-d32",
        "4 KiB random write with FUA, depth 32",
        Generated(4 * KIB, 32, reads=0, fua=True),
        "file-durable-4k",
    ),
    SceneRow("fairness", "a reader alone, and beside a writer", fairness, (OURS, THEIRS, NULL)),
    SceneRow("cold-file", "a cold file beside a cached one", cold_file),
    SceneRow("idle-sessions", "64 idle sessions", idle_sessions),
    SceneRow("initiators-4k", "4 KiB random reads by three initiators", partial(random_reads, 4 * KIB)),
    SceneRow("initiators-256k", "256 KiB random reads by three initiators", partial(random_reads, 256 * KIB)),
    SceneRow("copy-to-lun", "an image of 2 GiB, half holes, to a LUN", copy_to_lun),
    SceneRow("copy-from-lun", "a LUN of 2 GiB, half holes, to a file", copy_from_lun),
)


def row(key: str) -> Row:
    """The row of a key."""
    return next(each for each in ROWS if each.key == key)


def load_rows() -> tuple[LoadRow, ...]:
    return tuple(each for each in ROWS if isinstance(each, LoadRow))

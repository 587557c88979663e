"""The kinds of logical unit that the suite is run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

from tests.bench.targets import TARGETS, Export, Target
from tests.conformance.suite import EndedBadly, Result, badly_ended, end, families, run_suite

SIZE: Final = "256M"
"""READ(6) reaches 1 GiB: only on a smaller disk can it be sent past the end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of logical unit, and how a target is told to serve one.

    Args:
        target: the row of `TARGETS` that serves it.
        read_only: write-protected; the disk has data, as a disk that is to be read has.
        options: of `csvd serve`.
        without_leave: families that are not given leave to write and to sanitize; the suite skips most of them then.
        unfit: tests that are left out, for they write without asking whether they may.
    """

    target: str
    read_only: bool = False
    options: tuple[str, ...] = ()
    without_leave: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()


_WRITING: Final = frozenset(
    [
        "CompareAndWrite",
        "ExtendedCopy",
        "GetLBAStatus",
        "MultipathIO",
        "OrWrite",
        "ReceiveCopyResults",
        "Unmap",
        "Write10",
        "Write12",
        "Write16",
        "WriteAtomic16",
        "WriteSame10",
        "WriteSame16",
        "WriteVerify10",
        "WriteVerify12",
        "WriteVerify16",
        "iSCSIResiduals",
    ]
)
_ABORTED_WRITES: Final = ["iSCSITMF.AbortTaskSimpleAsync", "iSCSITMF.LUNResetSimpleAsync"]
"""They fail when the WRITE is answered before its abort comes: with WRITE PROTECTED, where that is the answer."""
_RESERVED_ACCESS: Final = [f"ProutReserve.Access{kind}" for kind in ("EA", "WE", "EARO", "WERO", "EAAR", "WEAR")]

# The suite's GetLBAStatus.UnmapSingle asks for the block behind the first that it unmapped, and expects an answer that
# begins a physical block behind it, up to block 256: that fits only where a physical block is one logical block, or as
# many as 256. Tests of unaligned UNMAPs need more than one.
KINDS: Final[Mapping[str, Kind]] = {
    "thin": Kind("csvd", options=("--provisioning", "thin", "--physical-block-bytes", "512")),
    "full": Kind("csvd", options=("--provisioning", "full")),
    # With leave to write, the suite expects of every disk but in one family that it can.
    "read-only": Kind(
        "csvd",
        read_only=True,
        without_leave=_WRITING,
        unfit=frozenset(
            {"WriteVerify10.Dpo", "WriteVerify12.Dpo", "WriteVerify16.Dpo", *_ABORTED_WRITES, *_RESERVED_ACCESS}
        ),
    ),
    "removable": Kind("csvd", options=("--removable", "--physical-block-bytes", "131072")),
}
PEER: Final = "tgtd"
PEER_KINDS: Final[Mapping[str, Kind]] = {"tgtd": Kind("tgtd")}


def serve(kind: Kind, folder: Path, *, units: int = 1, size: str = SIZE) -> Target:
    """Serve logical units of a kind, with state that is kept in `folder`.

    Raises:
        TargetFailed: as the row of `TARGETS`.
    """
    disks = tuple(folder / f"disk{number}.img" for number in range(units))
    export = Export(disks, create=None if kind.read_only else size, read_only=kind.read_only, options=kind.options)
    if kind.read_only:
        for disk in disks:
            with disk.open("wb") as file:
                file.truncate(256 << 20)
    if kind.target == "csvd":
        export = replace(export, options=(*kind.options, "--state-directory", str(folder / "state")))
    return TARGETS[kind.target](export, folder)


def run_kind(kind: Kind, told: Callable[[str], None]) -> list[Result]:
    """Run the whole suite on one kind; `told` gets a line for each family."""
    with tempfile.TemporaryDirectory(prefix="csvd-conformance-") as scratch:
        numbers = count()

        @contextmanager
        def apart(size: str | None) -> Iterator[str]:
            """A target with one unit."""
            folder = Path(scratch, str(next(numbers)))
            folder.mkdir()
            with serve(kind, folder, size=size or SIZE) as target:
                yield target.url
                end(target)

        # The peer's may come to its end in any family: it gets a target for each.
        run = _run_on_one_target if kind.target == "csvd" else _run_suite
        return list(run(kind, apart, told))


Apart = Callable[[str | None], AbstractContextManager[str]]


def _run_suite(kind: Kind, serve: Apart, told: Callable[[str], None]) -> Iterator[Result]:
    return run_suite(serve, told, without_leave=kind.without_leave, unfit=kind.unfit)


def _run_on_one_target(kind: Kind, apart: Apart, told: Callable[[str], None]) -> Iterator[Result]:
    """One target has a unit for each family: starting a target takes longer than most families."""
    with (
        tempfile.TemporaryDirectory(prefix="csvd-conformance-") as folder,
        serve(kind, Path(folder), units=len(families())) as target,
    ):
        urls = iter(target.urls)

        def one_of_many(size: str | None) -> AbstractContextManager[str]:
            return apart(size) if size is not None else nullcontext(next(urls))

        yield from _run_suite(kind, one_of_many, told)
        try:
            end(target)
        except EndedBadly as why:
            yield badly_ended("all families", why)

"""The kinds of logical unit that the suite is run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.bench.targets import TARGETS, Export, Target

SIZE: Final = "256M"
"""READ(6) reaches 1 GiB: only on a smaller disk can it be sent past the end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of logical unit, and how a target is told to serve one.

    Args:
        target: the row of `TARGETS` that serves it.
        read_only: write-protected; the disk has data, as a disk that is to be read has.
        options: of `csvd serve`.
    """

    target: str
    read_only: bool = False
    options: tuple[str, ...] = ()


KINDS: Final[Mapping[str, Kind]] = {
    "thin": Kind("csvd", options=("--thin",)),
    "full": Kind("csvd", options=("--full",)),
    "read-only": Kind("csvd", read_only=True),
    "removable": Kind("csvd", options=("--removable",)),
}
PEER: Final = "tgtd"
PEER_KINDS: Final[Mapping[str, Kind]] = {"tgtd": Kind("tgtd")}


def serve(kind: Kind, folder: Path, size: str = SIZE) -> Target:
    """Serve one logical unit of a kind, with state that is kept in `folder`.

    Raises:
        TargetFailed: as the row of `TARGETS`.
    """
    disk = folder / "disk.img"
    export = Export((disk,), create=None if kind.read_only else size, read_only=kind.read_only, options=kind.options)
    if kind.read_only:
        with disk.open("wb") as file:
            file.truncate(256 << 20)
    if kind.target == "csvd":
        export = replace(export, options=(*kind.options, "--state-directory", str(folder / "state")))
    return TARGETS[kind.target](export, folder)

"""What was measured: samples by row, target and round; their spread and ratios; and their record, kept as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

MILLION = 1_000_000


class RecordFailed(Exception):
    """A record is not one, or is of another run than the one that it should go on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one row on one target in one round: its figures by name; a unit ends each name."""

    row: str
    target: str
    round_number: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(slots=True)
class Samples:
    """All samples of a run, in the order in which they came."""

    all: list[Sample] = field(default_factory=list)

    def has(self, row: str, target: str, round_number: int | None = None) -> bool:
        """Whether there is one, in a round or in any."""
        return any(
            sample.row == row and sample.target == target and round_number in (None, sample.round_number)
            for sample in self.all
        )

    def values(self, row: str, target: str, figure: str) -> dict[int, float]:
        """A figure of each round."""
        return {
            sample.round_number: value_of(sample.figures, figure)
            for sample in self.all
            if sample.row == row and sample.target == target and can_tell(sample.figures, figure)
        }

    def spread(self, row: str, target: str, figure: str) -> Spread | None:
        """A figure over all rounds; None where it was not measured."""
        values = self.values(row, target, figure)
        return Spread.of(list(values.values())) if values else None

    def ratio(self, above: tuple[str, str, str], below: tuple[str, str, str]) -> Spread | None:
        """One (row, target, figure) to another, round by round: what the machine did to both falls out of it.

        None where no round has both.
        """
        over, under = self.values(*above), self.values(*below)
        ratios = [over[number] / under[number] for number in over if under.get(number)]
        return Spread.of(ratios) if ratios else None

    def most(self, target: str, figure: str) -> float | None:
        """The greatest of a figure of a target over all rows and rounds."""
        values = [
            value_of(sample.figures, figure)
            for sample in self.all
            if sample.target == target and can_tell(sample.figures, figure)
        ]
        return max(values, default=None)


CPU_PER_MILLION = "cpu_s_per_million"


def can_tell(figures: Mapping[str, float], figure: str) -> bool:
    return figure in figures or (figure == CPU_PER_MILLION and figures.get("requests", 0) > 0 and "cpu_s" in figures)


def value_of(figures: Mapping[str, float], figure: str) -> float:
    """A figure, or one that follows from others: `cpu_s_per_million`, of a million requests."""
    if figure == CPU_PER_MILLION:
        return figures["cpu_s"] / figures["requests"] * MILLION
    return figures[figure]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What all samples of a record have in common: when and where, with which versions, how long and how often."""

    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    rounds: int
    duration_s: int
    disk_mib: int


class Record:
    """A file of JSON lines: the beginning, then a sample each. It is whole after every line: a killed run keeps it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def begin(self, beginning: Beginning) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(asdict(beginning)) + "\n")

    def add(self, sample: Sample) -> None:
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(sample)) + "\n")


def read_record(file: Path) -> tuple[Beginning, Samples]:
    """What a record holds; a last line that was cut off is left out.

    Raises:
        RecordFailed: it is no record.
    """
    try:
        lines = file.read_text().split("\n")
        beginning = Beginning(**json.loads(lines[0]))
        return beginning, Samples([_sample(json.loads(line)) for line in lines[1:-1]])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordFailed(f"{file} is no record of a run: {error}") from None


def check_same_run(file: Path, before: Beginning, now: Beginning) -> None:
    """A run is gone on with only where it was begun: same machine, versions and lengths.

    Raises:
        RecordFailed: it was another run.
    """
    for name in ("versions", "rounds", "duration_s", "disk_mib"):
        if getattr(before, name) != getattr(now, name):
            raise RecordFailed(f"{file} is of another run: {name} was {getattr(before, name)}")


def _sample(fields: Mapping[str, Any]) -> Sample:
    figures = {str(name): float(value) for name, value in fields["figures"].items()}
    if not all(map(math.isfinite, figures.values())):
        raise ValueError(f"{fields['row']} has a figure that is no number")
    return Sample(fields["row"], fields["target"], int(fields["round_number"]), figures)

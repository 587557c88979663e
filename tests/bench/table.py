"""From samples to the claim: medians with their spread, the ratio of two targets, CPU time for a million requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.loads import KIB, Row

MILLION = 1_000_000
# From this block size on a reader thinks in bytes a second, below it in requests a second.
THROUGHPUT_FROM_BYTES = 64 * KIB


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one load on one target; `cpu_s` is what the target's process used meanwhile."""

    requests_per_s: float
    requests: float
    cpu_s: float

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.requests * MILLION


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of the table. Sample N of `ours` and sample N of `theirs` ran one after the other."""

    row: Row
    ours: Sequence[Sample]
    theirs: Sequence[Sample]

    @property
    def ratio(self) -> Spread:
        """Ours to theirs, round by round: what the machine did to both in a round falls out of it."""
        return Spread.of(
            [our.requests_per_s / their.requests_per_s for our, their in zip(self.ours, self.theirs, strict=True)]
        )


def markdown(comparisons: Sequence[Comparison], ours: str, theirs: str) -> str:
    """The table of the claim and the table of the cost, as Markdown."""
    lines = [
        f"| load | {ours} | {theirs} | ratio {ours}/{theirs} |",
        "|---|---:|---:|---:|",
    ]
    for comparison in comparisons:
        size = comparison.row.load.block_bytes
        cells = [_rate(comparison.ours, size), _rate(comparison.theirs, size), _ratio(comparison.ratio)]
        lines.append(f"| {comparison.row.title} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| CPU seconds of the target a million requests | {ours} | {theirs} |",
        "|---|---:|---:|",
    ]
    for comparison in comparisons:
        lines.append(f"| {comparison.row.title} | {_cost(comparison.ours)} | {_cost(comparison.theirs)} |")
    return "\n".join(lines) + "\n"


def as_json(comparisons: Sequence[Comparison], ours: str, theirs: str) -> list[Mapping[str, object]]:
    """Every sample of every row, and the medians and ratios drawn from them."""
    return [
        {
            "row": comparison.row.key,
            "title": comparison.row.title,
            "block_bytes": comparison.row.load.block_bytes,
            "ratio": _spread_json(comparison.ratio),
            "targets": {ours: _samples_json(comparison.ours), theirs: _samples_json(comparison.theirs)},
        }
        for comparison in comparisons
    ]


def _samples_json(samples: Sequence[Sample]) -> Mapping[str, object]:
    return {
        "requests_per_s": _spread_json(Spread.of([sample.requests_per_s for sample in samples])),
        "cpu_s_per_million_requests": _spread_json(Spread.of([sample.cpu_s_per_million for sample in samples])),
        "samples": [
            {"requests_per_s": sample.requests_per_s, "requests": sample.requests, "cpu_s": sample.cpu_s}
            for sample in samples
        ],
    }


def _spread_json(spread: Spread) -> Mapping[str, float]:
    return {"median": spread.median, "min": spread.least, "max": spread.greatest}


def _rate(samples: Sequence[Sample], block_bytes: int) -> str:
    spread = Spread.of([sample.requests_per_s for sample in samples])
    if block_bytes < THROUGHPUT_FROM_BYTES:
        return f"{spread.median:,.0f} IOPS ({spread.least:,.0f}–{spread.greatest:,.0f})"
    middle, least, greatest = (rate * block_bytes / MILLION for rate in (spread.median, spread.least, spread.greatest))
    return f"{middle:,.0f} MB/s ({least:,.0f}–{greatest:,.0f})"


def _ratio(spread: Spread) -> str:
    return f"**{spread.median:.2f}** ({spread.least:.2f}–{spread.greatest:.2f})"


def _cost(samples: Sequence[Sample]) -> str:
    spread = Spread.of([sample.cpu_s_per_million for sample in samples])
    return f"{spread.median:,.1f} ({spread.least:,.1f}–{spread.greatest:,.1f})"

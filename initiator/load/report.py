"""What a load has measured: as JSON, and for people with a picture of the latencies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from initiator.load.histogram import Histogram, Range, coarse

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
PICTURE_ROWS: Final = 20
BAR_WIDTH: Final = 40

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_US: Final = 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """A load that is done.

    Args:
        title: what was asked.
        block_bytes: what each command moved.
        time_s: from the first command to the last answer.
        latencies: by what was done, "read" or "write"; in nanoseconds.
        busy: commands that were sent again because the target had no room for them.
    """

    title: str
    block_bytes: int
    time_s: float
    latencies: dict[str, Histogram]
    busy: int

    @property
    def all(self) -> Histogram:
        """All latencies together."""
        whole = Histogram()
        for histogram in self.latencies.values():
            whole.merge(histogram)
        return whole

    def as_json(self) -> dict[str, Any]:
        """Everything that is known, buckets included."""
        kinds = {name: self._facts(each) for name, each in self.latencies.items() if each.count}
        return {"title": self.title, "block_bytes": self.block_bytes, "time_s": round(self.time_s, 6)} | {
            **self._facts(self.all),
            "busy": self.busy,
            **(kinds if len(kinds) > 1 else {}),
        }

    def _facts(self, histogram: Histogram) -> dict[str, Any]:
        per_s = histogram.count / self.time_s if self.time_s else 0.0
        return {
            "requests": histogram.count,
            "iops": round(per_s, 3),
            "bytes_per_s": round(per_s * self.block_bytes),
            "latency_us": {name: round(value / _US, 3) for name, value in figures(histogram)},
            "histogram": [
                {"from_us": low / _US, "to_us": high / _US, "count": count} for low, high, count in histogram.buckets()
            ],
        }

    def lines(self) -> Iterator[str]:
        """The text for a terminal."""
        yield f"{self.title}, {self.time_s:.1f} s"
        kinds = {name: each for name, each in self.latencies.items() if each.count}
        for name, histogram in kinds.items():
            yield from self._rates(f"{name}: " if len(kinds) > 1 else "", histogram)
        if len(kinds) > 1:
            yield from self._rates("total: ", self.all)
        if self.busy:
            yield f"{self.busy:,} commands were sent again: the target was busy"
        yield ""
        yield from picture(self.all)

    def _rates(self, name: str, histogram: Histogram) -> Iterator[str]:
        per_s = histogram.count / self.time_s if self.time_s else 0.0
        yield f"{name}{per_s:,.0f} IOPS, {per_s * self.block_bytes / 1e6:,.1f} MB/s, {histogram.count:,} commands"
        yield "  latency: " + ", ".join(f"{name} {time_text(value)}" for name, value in figures(histogram))


def figures(histogram: Histogram) -> list[tuple[str, float]]:
    """The least, the mean, percentiles and the greatest, by name."""
    percentiles = [(f"p{percent:g}", histogram.percentile(percent)) for percent in PERCENTILES]
    return [("min", histogram.least), ("mean", histogram.mean), *percentiles, ("max", histogram.greatest)]


def picture(histogram: Histogram) -> Iterator[str]:
    """Bars of how many values are in which range; the slowest of a thousand are one row."""
    rows = _trimmed(histogram)
    most = max((count for *_, count in rows), default=0)
    for low, high, count in rows:
        share = count / histogram.count
        edges = f"{time_text(low):>8} – {time_text(high):<8}"
        yield f"{edges} {_bar(count / most)} {share:6.2%}"


def _trimmed(histogram: Histogram) -> list[Range]:
    """The ranges of the picture: fine where most values are, and one range for what is far above them."""
    top = histogram.percentile(99.9)
    rows = coarse([bucket for bucket in histogram.buckets() if bucket[0] <= top], PICTURE_ROWS)
    above = sum(count for low, _, count in histogram.buckets() if low > top)
    return [*rows, (rows[-1][1], histogram.greatest + 1, above)] if above else rows


def _bar(share: float) -> str:
    eighths = max(1 if share else 0, round(share * BAR_WIDTH * 8))
    text = _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{text:<{BAR_WIDTH}}"


def time_text(value_ns: float) -> str:
    """Give a time for people."""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if value_ns >= factor:
            return f"{value_ns / factor:.3g} {unit}"
    return f"{value_ns:.0f} ns"

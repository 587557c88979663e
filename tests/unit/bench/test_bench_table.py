from __future__ import annotations

from tests.bench import table
from tests.bench.limits import CSVD_NULL, IN_C, IN_PYTHON, NULL
from tests.bench.report import document, summary
from tests.bench.rows import OURS, ROWS, THEIRS, LoadRow
from tests.bench.samples import Beginning, Sample, Samples

BEGINNING = Beginning("2026-11-26", {"processor": "2 x {odd} CPU"}, {"csvd": "0.1.0"}, 3, 5, 64)


def rates(row: str, target: str, *values: float) -> list[Sample]:
    return [
        Sample(row, target, number, {"requests_per_s": rate, "requests": rate * 5, "cpu_s": rate / 100_000})
        for number, rate in enumerate(values)
    ]


SMALL = Samples(rates("read-4k-d1", OURS, 3000, 1000, 2000) + rates("read-4k-d1", THEIRS, 1000, 1000, 1000))
LARGE = Samples(rates("read-256k-d32", OURS, 4000) + rates("read-256k-d32", THEIRS, 8000))


def test_small_blocks_are_shown_in_requests_and_large_ones_in_bytes_a_second() -> None:
    assert table.rates(SMALL).splitlines() == [
        "| load | csvd | tgtd | ratio csvd/tgtd |",
        "|---|---:|---:|---:|",
        "| 4 KiB random read, depth 1 | 2,000 IOPS (1,000–3,000) | 1,000 IOPS (1,000–1,000) | **2.00** (1.00–3.00) |",
    ]
    assert "| 1,049 MB/s (1,049–1,049) | 2,097 MB/s (2,097–2,097) | **0.50** (0.50–0.50) |" in table.rates(LARGE)


def test_the_cost_is_of_a_million_requests() -> None:
    assert "| 4 KiB random read, depth 1 | 2.0 (2.0–2.0) | 2.0 (2.0–2.0) | **1.00** (1.00–1.00) |" in table.costs(SMALL)


def test_limits_stand_beside_their_row() -> None:
    limits = Samples(
        [
            *SMALL.all,
            *rates("read-4k-d1", NULL, 4000, 4000),
            *rates("read-4k-d1", CSVD_NULL, 2500),
            *rates("file-read-4k", IN_C, 900_000),
            *rates("file-read-4k", IN_PYTHON, 400_000),
        ]
    )

    last = table.limits(limits, has_compiler=True).splitlines()[-1]
    assert last == (
        "| 4 KiB random read, depth 1 | 4,000 IOPS | **0.50** (0.25–0.75) | **0.25** (0.25–0.25) "
        "| 2,500 IOPS | 900,000 IOPS | 400,000 IOPS |"
    )


def test_without_a_compiler_the_columns_say_so() -> None:
    last = table.limits(SMALL, has_compiler=False).splitlines()[-1]

    assert last.count("no C compiler") == 4
    assert last.count("–") == 2


def test_digests_durability_and_memory_are_told_for_both() -> None:
    samples = Samples(
        [
            *rates("aligned-read-256k-d32", OURS, 100),
            *rates("digest-read-256k", OURS, 70),
            *rates("fua-write-4k-d32", OURS, 600),
            *rates("file-durable-4k", IN_PYTHON, 200),
            Sample("idle-sessions", THEIRS, 0, {"before_mib": 4.0, "added_mib": 1.0, "peak_mib": 30.0}),
        ]
    )

    assert "| read | 30.0 % | – |" in table.digests(samples)
    assert "| times fdatasync | **3.00** | – | 1 |" in table.durable_writes(samples)
    assert "| 64 idle sessions add | – | 1.0 (1.0–1.0) |" in table.memory(samples)
    assert "| the most that was resident, over all loads | – | 30.0 |" in table.memory(samples)


def test_latencies_are_told_with_the_rate_of_the_writer_in_bytes() -> None:
    samples = Samples([Sample("fairness", OURS, 0, {"times_alone_p99": 2.5, "writer_requests_per_s": 4000.0})])

    text = table.fairness(samples)
    assert "| p99 beside to p99 alone | 2.50 (2.50–2.50) | – | – |" in text
    assert "| writer's rate, MB/s | 1,049 (1,049–1,049) | – | – |" in text


def test_rows_have_keys_and_titles_of_their_own_and_blocks_of_whole_sectors() -> None:
    assert len({row.key for row in ROWS}) == len({row.title for row in ROWS}) == len(ROWS)
    loads = [row for row in ROWS if isinstance(row, LoadRow)]
    assert all(row.load.block_bytes % 512 == 0 for row in loads)
    assert {row.alone for row in loads} <= {row.key for row in ROWS}


def test_the_document_tells_tables_aims_machine_and_commands() -> None:
    text = document(BEGINNING, SMALL, limit_rounds=2)

    assert "**2.00**" in text
    assert "| 4 KiB read, depth 1, from any sector: csvd to tgtd | ≥ 1 × | 2.00 × | met |" in text
    assert "- processor: 2 x {odd} CPU\n- csvd: 0.1.0\n" in text
    assert "- date: 2026-11-26\n" in text
    assert "iscsi-perf -r -b 8 -m 1 -t 5 iscsi://127.0.0.1:PORT/IQN/LUN" in text
    assert "no C compiler where it was measured" in text


def test_the_commands_of_the_document_are_those_of_any_machine() -> None:
    samples = Samples(rates("write-4k-d1", OURS, 10) + rates("write-4k-d1", THEIRS, 10))

    assert "\npython -m tests.bench.generator --sessions 1 --depth 1 " in document(BEGINNING, samples, limit_rounds=3)


def test_a_summary_has_the_tables_of_what_was_measured() -> None:
    text = summary(SMALL)

    assert "4 KiB random read, depth 1" in text
    assert "idle sessions add" in text
    assert "resident just after the start" not in text

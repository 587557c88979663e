from __future__ import annotations

import math

import pytest

from tests.bench.loads import (
    KIB,
    Generated,
    LoadFailed,
    RandomRead,
    ScatteredWrite,
    parse_generator,
    parse_iscsi_perf,
    parse_qemu_img_bench,
    run_load,
    scattering_step,
)

# As iscsi-perf of libiscsi 1.19.0 prints it.
PERF = (
    "iscsi-perf version 0.1 - (c) 2014-2015 by Peter Lieven <pl@\ufffdamp.de>\n"
    "\nconnected to iscsi://127.0.0.1:13260/iqn.2026-11.io.csvd:x/1\n"
    "capacity is 524288 blocks or 268435456 byte (256 MB)\n"
    "performing RANDOM READ with 32 parallel requests\n"
    "FIXED transfer size of 8 blocks (4096 byte)\n"
    "will run for 2 seconds.\n\n"
    "\r00:00:01 - lba 7441, iops current 62275 (243 MB/s), iops average 62275 (243 MB/s), in_flight 32, busy 0        "
    "\riops average 61932 (241 MB/s)                                                        \n\nfinished.\n"
)
# As qemu-img 7.2 prints it.
BENCH = (
    "Sending 20000 write requests, 4096 bytes each, 32 in parallel (starting at offset 0, step size 4096)\n"
    "Run completed in 0.320 seconds.\n"
)


def test_the_average_at_the_end_is_the_figure_of_iscsi_perf() -> None:
    assert parse_iscsi_perf(PERF) == 61932


def test_an_iscsi_perf_that_was_cut_off_gives_no_figure() -> None:
    with pytest.raises(LoadFailed, match="did not finish"):
        parse_iscsi_perf(PERF.partition("\riops average")[0])
    with pytest.raises(LoadFailed, match="did not finish"):
        parse_iscsi_perf(PERF.removesuffix("finished.\n"))


@pytest.mark.parametrize(
    "line",
    ["Read10/16 failed with sense key:3 ascq:1100", "iscsi_service failed with : socket error", "Login Failed. no"],
)
def test_a_failed_read_makes_the_average_worthless(line: str) -> None:
    with pytest.raises(LoadFailed, match=line.partition(" ")[0]):
        parse_iscsi_perf(PERF.replace("\riops average", f"\n{line}\n\riops average"))


def test_requests_and_seconds_are_the_figures_of_qemu_img_bench() -> None:
    assert parse_qemu_img_bench(BENCH) == (20000, 0.32)


@pytest.mark.parametrize(
    "printed",
    ["", BENCH.splitlines()[0], BENCH.splitlines()[1], BENCH.replace("0.320", "0.000")],
    ids=["nothing", "no end", "no begin", "no time"],
)
def test_a_qemu_img_bench_without_both_gives_no_figure(printed: str) -> None:
    with pytest.raises(LoadFailed, match="no figures"):
        parse_qemu_img_bench(printed)


def test_a_random_read_asks_for_whole_blocks_and_depth() -> None:
    load = RandomRead(256 * KIB, 32)

    assert load.command("iscsi://h/t/0", 1 << 30, 5) == [
        "iscsi-perf",
        "-r",
        "-b",
        "512",
        "-m",
        "32",
        "-t",
        "5",
        "iscsi://h/t/0",
    ]
    assert load.figures(PERF, 2) == {"requests": 2 * 61932, "requests_per_s": 61932}


def test_a_scattered_write_counts_its_requests_by_the_length_of_the_run() -> None:
    load = ScatteredWrite(4 * KIB, 8, 1000)

    command = load.command("iscsi://h/t/0", 1 << 30, 5)
    step = scattering_step(1 << 18) * 4096
    assert command == f"qemu-img bench -w -f raw -t none -c 5000 -d 8 -s 4096 -S {step} iscsi://h/t/0".split()
    assert load.figures(BENCH, 5)["requests_per_s"] == pytest.approx(62500)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 10, 997, 1 << 12, (1 << 18) + 6])
def test_scattered_writes_visit_every_slot_once(slots: int) -> None:
    step = scattering_step(slots)

    assert math.gcd(step, slots) == 1
    if slots <= 1 << 12:
        assert {number * step % slots for number in range(slots)} == set(range(slots))


def test_a_generated_load_tells_its_client_all_of_itself() -> None:
    load = Generated(4 * KIB, 8, reads=70, sessions=3, fua=True, digests=True, latencies=True, is_prompt=True)

    command = load.command("iscsi://h:1/t/0", 1 << 30, 5)
    assert command[1:] == [
        *("-m", "tests.bench.generator", "--sessions", "3", "--depth", "8", "--block", "4096", "--reads", "70"),
        *("--disk-bytes", str(1 << 30), "--seconds", "5", "--fua", "--digests", "--latencies", "--prompt"),
        "iscsi://h:1/t/0",
    ]


def test_the_last_line_of_the_generator_has_its_figures() -> None:
    assert parse_generator('running\n{"requests": 10.0, "seconds": 4.0, "p99_us": 7}\n') == {
        "requests": 10,
        "seconds": 4,
        "p99_us": 7,
        "requests_per_s": 2.5,
    }


@pytest.mark.parametrize("printed", ["", "running\n", "[1]\n", '{"seconds": 1.0}\n', '{"requests": "many"}\n'])
def test_a_generator_that_tells_nothing_gives_no_figure(printed: str) -> None:
    with pytest.raises(LoadFailed, match="no figures"):
        parse_generator(printed)


def test_a_generator_that_did_nothing_is_a_failure() -> None:
    with pytest.raises(LoadFailed, match="nothing done"):
        parse_generator('{"requests": 0.0, "seconds": 1.0}')


class Shell:
    """A load that is a shell command instead of a client."""

    block_bytes = 4096

    def __init__(self, script: str, program: str = "sh") -> None:
        self.script = script
        self.program = program

    def command(self, url: str, disk_bytes: int, duration_s: int) -> list[str]:
        return [self.program, "-c", self.script]

    figures = RandomRead(4096, 1).figures


def test_a_client_that_exits_with_an_error_gives_no_figure() -> None:
    with pytest.raises(LoadFailed, match=r"exit status 3: .*no route"):
        run_load(Shell("echo no route >&2; exit 3"), "iscsi://h/t/0", 1 << 20, 1)


def test_a_client_that_hangs_is_killed_even_if_it_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.loads.TIMEOUT_FLOOR_S", 0.1)
    monkeypatch.setattr("tests.bench.loads.TIMEOUT_FACTOR", 0)

    with pytest.raises(LoadFailed, match="not done after"):
        run_load(Shell("trap '' TERM; exec sleep 60"), "iscsi://h/t/0", 1 << 20, 1)


def test_a_client_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(LoadFailed, match=r"no-such-client is not installed: \.ci/apt"):
        run_load(Shell("", program="no-such-client"), "iscsi://h/t/0", 1 << 20, 1)

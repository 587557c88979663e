from __future__ import annotations

from initiator.cli.progress import EVERY_S, Progress, line

GIB = 1 << 30


def test_the_line_tells_share_rate_and_time_left() -> None:
    text = line("copying", GIB, 4 * GIB, GIB / 40)
    assert text == f"copying  [{'#' * 6}{'-' * 18}]   25%  1.0 GiB of 4.0 GiB  25.6 MiB/s  2:00 left"
    assert line("copying", 4 * GIB, 4 * GIB, 1.0).endswith("4.0 GiB of 4.0 GiB  1 bytes/s")
    assert "1:06:40 left" in line("copying", 0, 4000, 1.0)
    assert "left" not in line("copying", 0, 4 * GIB, 0.0)


def test_of_what_has_no_known_length_the_amount_is_told() -> None:
    assert line("copying", 3 << 20, None, 1024.0) == "copying  3.0 MiB  1.0 KiB/s"


def test_nothing_at_all_is_all_done() -> None:
    assert "100%" in line("copying", 0, 0, 0.0)


def test_it_is_drawn_at_most_five_times_a_second_and_taken_away_in_the_end() -> None:
    now_s, drawn = [0.0], list[str]()
    bar = Progress("copying", lambda: now_s[0], drawn.append)
    for step in range(100):
        now_s[0] = step * EVERY_S / 10
        bar.update(step, 100)
    assert len(drawn) == 10
    assert "bytes/s" in drawn[-1]
    bar.end()
    bar.end()
    assert drawn[10:] == ["\r\x1b[K"]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now_s, drawn = [0.0], list[str]()
    bar = Progress("copying", lambda: now_s[0], drawn.append)
    for second in range(60):
        now_s[0] = float(second)
        bar.update(min(second, 30) * 1000, 100_000)
    assert "  0 bytes/s" in drawn[-1]

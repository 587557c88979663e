from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.limits import in_python, parse_file_limit
from tests.bench.loads import LoadFailed


def test_requests_and_seconds_are_the_figures_of_the_file_alone() -> None:
    assert parse_file_limit("1600 requests in 0.500000 s\n") == {"requests": 1600, "requests_per_s": 3200}


@pytest.mark.parametrize(
    "printed", ["", "16 requests in 0.000000 s\n", "x requests in 1.0 s\n", "16 requests in 1.5 s"]
)
def test_a_program_that_tells_something_else_gives_no_figure(printed: str) -> None:
    with pytest.raises(LoadFailed, match="no figures"):
        parse_file_limit(printed)


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_alone_is_written_in_whole_blocks_and_never_grows(tmp_path: Path, *, durable: bool) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(8 * 4096))

    figures = in_python(disk, 4096, 0.01, writes=True, durable=durable)

    assert figures["requests"] > 0
    assert figures["requests_per_s"] > 0
    content = disk.read_bytes()
    assert len(content) == 8 * 4096
    assert {content[at : at + 4096] == bytes(4096) for at in range(0, len(content), 4096)} & {False}


def test_the_file_alone_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"x" * 4096)
    disk.chmod(0o400)

    assert in_python(disk, 4096, 0.01, writes=False)["requests"] > 0
    assert disk.read_bytes() == b"x" * 4096

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from initiator.errors import InitiatorError
from initiator.load.workload import Commands, Workload

WORK = Workload(block_bytes=4096, reads=100, random=False, first_bytes=1 << 20, length_bytes=5 * 4096)


def cdbs(workload: Workload, count: int, start: int = 0) -> list[tuple[int, int, int, bool]]:
    """Opcode, LBA, blocks and whether it reads, of the first commands."""
    commands = Commands(workload, 512, random.Random(5).random, start=start)
    found = []
    for _ in range(count):
        cdb = commands.next_cdb()
        found.append((cdb[0], int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big"), commands.is_read))
    return found


def test_in_sequence_it_begins_again_at_the_end() -> None:
    assert cdbs(WORK, 7) == [(0x88, 2048 + 8 * slot, 8, True) for slot in (0, 1, 2, 3, 4, 0, 1)]
    assert [lba for _, lba, _, _ in cdbs(WORK, 3, start=3)] == [2048 + 24, 2048 + 32, 2048]


def test_at_random_every_place_is_met_and_no_other() -> None:
    found = {lba for _, lba, _, _ in cdbs(replace(WORK, random=True), 300)}
    assert found == {2048 + 8 * slot for slot in range(5)}


def test_a_mix_has_about_its_share_of_reads() -> None:
    found = [is_read for *_, is_read in cdbs(replace(WORK, reads=70), 2000)]
    assert 1300 < sum(found) < 1500
    assert all(opcode == (0x88 if is_read else 0x8A) for opcode, _, _, is_read in cdbs(replace(WORK, reads=50), 100))


def test_writes_alone_and_with_fua() -> None:
    commands = Commands(replace(WORK, reads=0, fua=True), 512, random.random)
    assert commands.next_cdb()[:2] == bytes([0x8A, 0x08])
    assert not commands.is_read
    assert Commands(replace(WORK, reads=0), 512, random.random).next_cdb()[:2] == bytes([0x8A, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_bytes": 1000}, "other blocks"),
        ({"first_bytes": 100}, "other blocks"),
        ({"first_bytes": 1 << 30}, "not on the LUN"),
        ({"length_bytes": 4000}, "no room"),
        ({"block_bytes": 8192}, "at most 4096 bytes"),
    ],
)
def test_what_a_lun_can_not_be_asked_for_is_told_before(change: dict[str, int], words: str) -> None:
    WORK.check(512, 1 << 30, 4096)
    with pytest.raises(InitiatorError, match=words):
        replace(WORK, **change).check(512, 1 << 30, 4096)  # type: ignore[arg-type]

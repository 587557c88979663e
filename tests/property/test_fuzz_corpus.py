"""The fuzzer's room with its corpus: every stream of a real initiator as it is, and mutated by a seeded hand.

`make fuzz` does the same guided by coverage, for ten minutes; this is the part that is the same every time.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.room import DIGESTS, LOGGED_IN, MOST_INPUT_BYTES, Room, one_input

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").glob("*.bin"))
MUTATIONS = 15


def test_there_is_a_corpus_of_four_initiators() -> None:
    assert {path.name.partition("-")[0] for path in CORPUS} >= {"libiscsi", "open", "qemu", "csv"}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_captured_stream_logs_in_and_is_answered_in_pieces_of_any_size(path: Path) -> None:
    data = path.read_bytes()
    for piece in range(4):
        room = Room()
        room.take(bytes((data[0] & ~0x0C | piece << 2,)) + data[1:])
        assert room.output_bytes > 48
        room.close()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_mutated_stream_raises_nothing_and_leaves_nothing_behind(path: Path) -> None:
    chance = random.Random(path.name)
    data = path.read_bytes()
    for _ in range(MUTATIONS):
        one_input(mutated(data, chance))


@pytest.mark.parametrize("flags", [0, LOGGED_IN, LOGGED_IN | DIGESTS])
def test_noise_raises_nothing(flags: int) -> None:
    chance = random.Random(flags)
    for _ in range(200):
        one_input(bytes((flags | chance.randrange(4) << 2,)) + chance.randbytes(chance.randrange(600)))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, a piece cut out, doubled or moved; the first byte, the mode, now and then."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 12)):
        at = chance.randrange(len(changed)) if chance.random() < 0.1 else chance.randrange(1, len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 1:
                changed[at : at + 4] = chance.choice((bytes(4), b"\xff" * 4, chance.randbytes(4)))
            case 2:
                del changed[at : at + chance.choice((1, 4, 48, 512))]
            case _:
                piece = changed[at : at + chance.choice((4, 48, 512))]
                changed[at:at] = piece
        if len(changed) < 2:
            break
    return bytes(changed[:MOST_INPUT_BYTES])

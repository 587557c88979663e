"""The fuzzer's room of the initiator with its corpus: what real targets said as it is, and mutated by a seeded hand.

`make fuzz` does the same guided by coverage; this is the part that is the same every time.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from initiator.engine.requests import Command, ConnectionFailed, LoggedIn, Ping, TaskManagement, TextExchange
from tests.fuzz.initiator_room import CHAP, DIGESTS, LOGGED_IN, TWO, InitiatorRoom, one_initiator_input
from tests.property.test_fuzz_corpus import mutated

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "initiator_corpus").glob("*.bin"))
MUTATIONS = 60


def test_there_is_a_corpus_of_three_targets() -> None:
    assert {path.name.partition("-")[0] for path in CORPUS} == {"csvd", "tgtd", "lio"}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_a_target_said_is_understood_in_pieces_of_any_size(path: Path) -> None:
    data = path.read_bytes()
    for piece in range(4):
        room = InitiatorRoom(data[0] & ~0x0C | piece << 2, said=data[1:])
        room.take(data[1:])
        kinds = {type(event) for event in room.events}
        assert kinds >= {LoggedIn, Command, Ping, TaskManagement}
        assert TextExchange in kinds or path.stem.startswith("tgtd")
        assert ConnectionFailed not in kinds


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_mutated_stream_ends_in_typed_errors_or_goes_on(path: Path) -> None:
    chance = random.Random(path.name)
    data = path.read_bytes()
    for _ in range(MUTATIONS):
        one_initiator_input(mutated(data, chance))


@pytest.mark.parametrize("mode", [0, CHAP, LOGGED_IN, LOGGED_IN | DIGESTS, LOGGED_IN | TWO, LOGGED_IN | TWO | DIGESTS])
def test_noise_raises_nothing(mode: int) -> None:
    chance = random.Random(mode)
    for _ in range(200):
        one_initiator_input(bytes((mode | chance.randrange(4) << 2,)) + chance.randbytes(chance.randrange(600)))

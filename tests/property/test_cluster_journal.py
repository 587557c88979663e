"""The journal under power cuts at every step: what was durable is there after, and nothing is made up."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.cluster.errors import JournalError
from csvd.cluster.journal import JOURNAL_NAME, Journal, JournalWrite
from csvd.cluster.journal_records import Entry, JournalState, Snapshot, decode_file
from tests.unit.cluster.simulated_files import PowerCut, SimulatedFiles

State = tuple[int, str | None, Snapshot | None, list[Entry]]


def state_of(journal: Journal) -> State:
    return (journal.term, journal.vote, journal.snapshot, list(journal.entries))


class Writer:
    """Changes a journal at random, and knows which states the disk may have."""

    def __init__(self, files: SimulatedFiles, random: Random) -> None:
        self.files = files
        self.random = random
        self.possible: list[State] = []  # the last durable state, then every later one that a write was begun of

    def run(self, changes: int) -> None:
        journal = Journal(self.files, "n1", now_ms=0)
        self.possible = [state_of(journal)]
        for _ in range(changes):
            self.change(journal)
            if self.random.random() < 0.7:
                self.possible.append(state_of(journal))
                journal.flush()
                self.possible = [state_of(journal)]

    def change(self, journal: Journal) -> None:
        kind = self.random.randrange(6)
        last = journal.entries[-1][1] if journal.entries else 0
        if kind == 0:
            journal.set_term(journal.term + 1, self.random.choice([None, "n1", "n2"]))
        elif kind == 1 and last > 3:
            first = journal.entries[0][1]
            position = self.random.randrange(2, len(journal.entries)) if len(journal.entries) > 2 else 2
            journal.cut(first + position)
        elif kind == 2 and len(journal.entries) > 2:
            position = self.random.randrange(len(journal.entries) - 1)
            journal.compact(Snapshot(self.random.randbytes(40), *journal.entries[position : position + 2]))
        elif kind == 3 and self.random.random() < 0.2:
            journal.install(Snapshot(self.random.randbytes(40), (b"p", last + 10, 1), (b"l", last + 11, 1)))
        else:
            for _ in range(self.random.randrange(1, 4)):
                last = journal.entries[-1][1] if journal.entries else 0
                journal.append((self.random.randbytes(self.random.randrange(1, 200)), last + 1, journal.term))


def steps_of(seed: int, changes: int) -> int:
    files = SimulatedFiles()
    Writer(files, Random(seed)).run(changes)
    return files.steps


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 12), data=st.data())
def test_after_a_power_cut_at_any_step_the_journal_is_the_last_durable_one_or_the_one_being_written(
    seed: int, changes: int, data: st.DataObject
) -> None:
    files = SimulatedFiles()
    files.cut_at = data.draw(st.integers(1, steps_of(seed, changes)), label="cut at step")
    writer = Writer(files, Random(seed))
    try:
        writer.run(changes)
    except PowerCut:
        pass
    else:
        raise AssertionError("the power did not go")
    found = files.after_power_cut(Random(data.draw(st.integers(0, 2**32), label="chance")))
    again = state_of(Journal(found, "n1", now_ms=0))
    assert again in writer.possible or (not writer.possible and again == (0, None, None, []))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 12))
def test_every_step_of_a_run_can_be_the_last(seed: int, changes: int) -> None:
    for step in range(1, steps_of(seed, changes) + 1):
        files = SimulatedFiles()
        files.cut_at = step
        writer = Writer(files, Random(seed))
        try:
            writer.run(changes)
        except PowerCut:
            found = state_of(Journal(files.after_power_cut(Random(step)), "n1", now_ms=0))
            assert found in writer.possible or (not writer.possible and found == (0, None, None, []))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_damage_is_refused_or_costs_no_batch_at_the_end_but_the_damaged(seed: int, data: st.DataObject) -> None:
    files = SimulatedFiles()
    writer = Writer(files, Random(seed))
    writer.run(8)
    whole = files.durable(JOURNAL_NAME)
    _, last_number = decode_file(whole, JournalState("n1"))
    content = bytearray(whole)
    places = st.sets(st.integers(0, len(whole) - 1), min_size=1, max_size=3)
    damaged = data.draw(places, label="damaged bytes")
    for position in damaged:
        content[position] ^= data.draw(st.integers(1, 255))
    try:
        sound_bytes, number = decode_file(bytes(content), JournalState("n1"))
    except JournalError:
        return
    assert 1 <= last_number - number <= len(damaged)
    assert content[:sound_bytes] == whole[:sound_bytes]


def lost_after_power_cuts(seeds: range) -> int:
    """How often the journal is not what it must be, over power cuts at every step of some runs."""
    lost = 0
    for seed in seeds:
        for step in range(1, steps_of(seed, 10) + 1):
            files = SimulatedFiles()
            files.cut_at = step
            writer = Writer(files, Random(seed))
            with suppress(PowerCut):
                writer.run(10)
            try:
                found = state_of(Journal(files.after_power_cut(Random(step)), "n1", now_ms=0))
            except JournalError:
                lost += 1
            else:
                lost += found not in writer.possible and (bool(writer.possible) or found != (0, None, None, []))
    return lost


@pytest.mark.parametrize("left_out", ["sync", "rename", "sync_names", "nothing"])
def test_the_checks_bite_when_a_step_of_the_writing_is_left_out(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace_without(write: JournalWrite) -> None:
        steps: list[tuple[str, tuple[Any, ...]]] = [
            ("remove", ("journal.new",)),
            ("write", ("journal.new", 0, write.data)),
            ("sync", ("journal.new",)),
            ("rename", ("journal.new", JOURNAL_NAME)),
            ("sync_names", ()),
        ]
        if write.offset_bytes is not None:
            steps = [("write", (JOURNAL_NAME, write.offset_bytes, write.data)), ("sync", (JOURNAL_NAME,))]
        if left_out == "rename":
            # Not by a new file and a rename, but in place.
            steps = [("write", (JOURNAL_NAME, write.offset_bytes or 0, write.data)), ("sync", (JOURNAL_NAME,))]
        for name, arguments in steps:
            if name != left_out:
                getattr(write.files, name)(*arguments)

    monkeypatch.setattr(JournalWrite, "run", replace_without)
    assert (lost_after_power_cuts(range(20)) == 0) == (left_out == "nothing")

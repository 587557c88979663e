"""The journal: what is durable comes back, a torn tail is cut, damage in the middle refuses to start."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from twisted.internet.defer import Deferred

from csvd.cluster.durability import DurabilityGate
from csvd.cluster.errors import JournalError
from csvd.cluster.journal import JOURNAL_NAME, MAXIMUM_APPENDED_BYTES, Journal
from csvd.cluster.journal_records import (
    Append,
    Cut,
    Entry,
    Image,
    JournalState,
    Snapshot,
    Term,
    decode_file,
    encode_batch,
    encode_file,
    encode_header,
)
from tests.unit.cluster.simulated_files import SimulatedFiles


def entry(index: int, term: int = 1, command: bytes = b"command") -> Entry:
    return (command, index, term)


def reopened(files: SimulatedFiles, node: str = "n1") -> Journal:
    return Journal(files.after_kill(), node, now_ms=0)


def filled(files: SimulatedFiles, count: int = 5) -> Journal:
    journal = Journal(files, "n1", now_ms=0)
    journal.set_term(3, "n2")
    for index in range(1, count + 1):
        journal.append(entry(index))
        journal.flush()
    return journal


def test_what_was_flushed_comes_back() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    again = reopened(files)
    assert (again.term, again.vote, again.entries, again.snapshot) == (3, "n2", journal.entries, None)
    assert again.log_bytes == journal.log_bytes == 5 * len(b"command")


def test_each_start_has_a_higher_incarnation_also_when_the_state_was_lost() -> None:
    files = SimulatedFiles()
    assert Journal(files, "n1", now_ms=1000).incarnation == 1000
    again = files.after_kill()
    assert Journal(again, "n1", now_ms=500).incarnation == 1001
    assert Journal(again.after_kill(), "n1", now_ms=5000).incarnation == 5000


def test_what_was_not_flushed_is_not_durable() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    journal.append(entry(6))
    assert not journal.is_durable
    assert len(reopened(files).entries) == 5


def test_entries_that_were_cut_stay_cut_and_others_take_their_place() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    journal.cut(4)
    journal.append(entry(4, 2, b"other"))
    journal.flush()
    assert reopened(files).entries == [entry(1), entry(2), entry(3), entry(4, 2, b"other")]


def test_a_change_that_does_not_fit_is_refused() -> None:
    journal = filled(SimulatedFiles())
    changes: list[Callable[[], None]] = [
        lambda: journal.append(entry(7)),
        lambda: journal.cut(1),
        lambda: journal.cut(9),
        lambda: journal.set_term(2, None),
    ]
    for change in changes:
        with pytest.raises(JournalError):
            change()


def test_a_compacted_log_begins_with_the_snapshot() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    snapshot = Snapshot(b"state", entry(3), entry(4))
    journal.compact(snapshot)
    journal.append(entry(6))
    journal.flush()
    again = reopened(files)
    assert again.snapshot == snapshot
    assert again.entries == [entry(3), entry(4), entry(5), entry(6)]
    assert (again.term, again.vote) == (3, "n2")
    with pytest.raises(JournalError):
        again.cut(4)


def test_a_snapshot_of_another_log_is_not_compacted_to() -> None:
    journal = filled(SimulatedFiles())
    for snapshot in (Snapshot(b"", entry(5), entry(6)), Snapshot(b"", entry(2, 9), entry(3))):
        with pytest.raises(JournalError, match="not of this log"):
            journal.compact(snapshot)


def test_an_installed_snapshot_takes_the_place_of_the_log() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    journal.install(Snapshot(b"state", entry(99, 7), entry(100, 8)))
    journal.append(entry(101, 8))
    journal.flush()
    assert reopened(files).entries == [entry(99, 7), entry(100, 8), entry(101, 8)]


def test_changes_made_during_a_write_are_in_the_next() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    journal.append(entry(6))
    write = journal.take()
    assert write is not None
    journal.append(entry(7))
    journal.compact(Snapshot(b"state", entry(2), entry(3)))
    journal.append(entry(8))
    write.run()
    journal.written(write)
    assert not journal.is_durable
    assert len(reopened(files).entries) == 6
    journal.flush()
    assert [index for _, index, _ in reopened(files).entries] == [2, 3, 4, 5, 6, 7, 8]


def test_a_journal_that_has_grown_long_is_written_anew() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    longest = 0
    for index in range(6, 400):
        journal.append(entry(index, 1, bytes(30_000)))
        journal.compact(Snapshot(b"", entry(index - 1, 1, journal.entries[-2][0]), journal.entries[-1]))
        journal.set_term(3 + index, None)
        journal.flush()
        longest = max(longest, journal.length_bytes)
    assert longest < 200_000
    for term in range(1000, 1000 + MAXIMUM_APPENDED_BYTES // 40):
        journal.set_term(term, "n1")
        if term % 500 == 0:
            journal.flush()
    journal.flush()
    assert journal.length_bytes < MAXIMUM_APPENDED_BYTES


def test_the_journal_of_another_node_is_refused() -> None:
    files = SimulatedFiles()
    filled(files)
    with pytest.raises(JournalError, match="belongs to node n1, and this is node n2"):
        reopened(files, "n2")


def test_a_torn_tail_of_any_length_is_cut_off_and_the_journal_goes_on() -> None:
    files = SimulatedFiles()
    journal = filled(files)
    whole = files.durable(JOURNAL_NAME)
    journal.append(entry(6))
    journal.flush()
    longer = files.durable(JOURNAL_NAME)
    for length in range(len(whole), len(longer)):
        torn = SimulatedFiles.with_content(JOURNAL_NAME, longer[:length])
        again = Journal(torn, "n1", now_ms=0)
        assert again.entries == journal.entries[:5]
        again.append(entry(6, 2))
        again.flush()
        assert reopened(torn).entries[-1] == entry(6, 2)


def test_garbage_after_the_last_batch_is_cut_off() -> None:
    files = SimulatedFiles()
    filled(files)
    content = files.durable(JOURNAL_NAME)
    garbage = Random(5).randbytes(3000) + b"\xc5\x5a\xd0\x7b" + bytes(30)
    assert len(Journal(SimulatedFiles.with_content(JOURNAL_NAME, content + garbage), "n1", now_ms=0).entries) == 5


def test_damage_before_sound_data_refuses_to_start_wherever_it_is() -> None:
    files = SimulatedFiles()
    filled(files)
    content = files.durable(JOURNAL_NAME)
    last_batch = len(encode_batch(9, [Append(entry(5))]))
    for position in range(len(content) - last_batch):
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        with pytest.raises(JournalError, match=r"journal of node n1|belongs to node"):
            Journal(SimulatedFiles.with_content(JOURNAL_NAME, bytes(damaged)), "n1", now_ms=0)


def test_the_error_of_a_damaged_journal_says_where_and_what_to_do() -> None:
    files = SimulatedFiles()
    filled(files)
    damaged = bytearray(files.durable(JOURNAL_NAME))
    damaged[-100] ^= 1
    with pytest.raises(JournalError) as caught:
        Journal(SimulatedFiles.with_content(JOURNAL_NAME, bytes(damaged)), "n1", now_ms=0)
    assert "it is damaged at byte" in str(caught.value)
    assert "restore" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 100, encode_header(), encode_header() + bytes(100)])
def test_a_file_that_is_no_journal_is_refused(content: bytes) -> None:
    with pytest.raises(JournalError):
        Journal(SimulatedFiles.with_content(JOURNAL_NAME, content), "n1", now_ms=0)


IMAGE = Image("n1", 1, 1, None, None, [entry(1)])


@pytest.mark.parametrize(
    "records",
    [
        [Append(entry(3))],
        [Cut(1)],
        [Cut(5)],
        [Term(0, None)],
        [IMAGE],
    ],
)
def test_records_that_do_not_fit_are_refused(records: list[Append | Cut | Term | Image]) -> None:
    content = encode_file(1, IMAGE) + encode_batch(2, records)
    with pytest.raises(JournalError):
        decode_file(content, JournalState("n1"))


def test_an_image_whose_log_does_not_begin_with_its_snapshot_is_refused() -> None:
    image = Image("n1", 1, 1, None, Snapshot(b"", entry(1), entry(2)), [entry(1), entry(2, 7)])
    with pytest.raises(JournalError, match="snapshot"):
        decode_file(encode_file(1, image), JournalState("n1"))


def test_a_rest_of_a_compaction_that_was_cut_short_is_ignored() -> None:
    files = SimulatedFiles()
    filled(files)
    files.write("journal.new", 0, b"half a journal")
    again = files.after_kill()
    assert len(Journal(again, "n1", now_ms=0).entries) == 5
    assert again.read("journal.new") is None


class GateRig:
    """A gate whose writes wait until the test runs them."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        self.journal = Journal(self.files, "n1", now_ms=0)
        self.writes: list[tuple[object, Deferred[None]]] = []
        self.passed: list[str] = []
        self.failures: list[JournalError] = []
        self.gate = DurabilityGate(self.journal, self.run_blocking, self.failures.append)

    def run_blocking(self, call: object) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.writes.append((call, done))
        return done

    def let_write(self) -> None:
        call, done = self.writes.pop(0)
        assert callable(call)
        try:
            call()
        except JournalError:
            done.errback()
        else:
            done.callback(None)

    def send(self, name: str) -> None:
        self.gate.pass_when_durable(lambda: self.passed.append(name))


def test_actions_pass_when_what_came_before_them_is_durable_and_in_order() -> None:
    rig = GateRig()
    rig.send("clean")
    assert rig.passed == ["clean"]
    rig.journal.set_term(1, None)
    rig.send("term 1")
    rig.journal.set_term(2, None)
    rig.send("term 2")
    assert rig.passed == ["clean"]
    assert len(rig.writes) == 1
    rig.let_write()
    assert rig.passed == ["clean", "term 1"]
    rig.let_write()
    assert rig.passed == ["clean", "term 1", "term 2"]
    assert rig.writes == []


def test_nothing_passes_after_a_write_has_failed() -> None:
    rig = GateRig()
    rig.journal.set_term(1, None)
    rig.send("one")
    rig.files.failing = "input/output error"
    rig.let_write()
    rig.send("two")
    rig.gate.write()
    assert rig.passed == []
    assert "input/output error" in str(rig.failures[0])
    assert len(rig.failures) == 1
    assert rig.writes == []


def test_a_gate_that_is_closed_waits_for_the_write_under_way_and_lets_nothing_pass() -> None:
    rig = GateRig()
    rig.journal.set_term(1, None)
    rig.send("one")
    closed: list[object] = []
    rig.gate.close().addCallback(closed.append)
    assert closed == []
    rig.let_write()
    assert closed == [None]
    assert rig.passed == []

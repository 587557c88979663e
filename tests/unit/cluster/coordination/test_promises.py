"""What a node has promised: durable before it is said, never lower again, and a damaged file is not guessed at."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.coordination.promises import FILE_NAME, MAXIMUM_PROMISES, Promises, PromisesError
from csvd.cluster.errors import ClusterError
from tests.unit.cluster.simulated_files import PowerCut, SimulatedFiles


def opened(files: SimulatedFiles, node: str = "n1", *, now_ms: int = 0) -> Promises:
    promises = Promises(files, node, run_blocking=defer.execute, clock=Clock(), now_ms=now_ms)
    assert done(promises.start()) == [None]
    return promises


def done(coroutine: Any) -> list[Any]:
    outcome: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(outcome.append)
    return outcome


def test_an_epoch_is_promised_once_and_lower_ones_are_refused() -> None:
    promises = opened(SimulatedFiles())
    assert done(promises.promise("a", 3)) == [3]
    assert done(promises.promise("a", 2)) == [3]
    assert done(promises.promise("a", 3)) == [3]
    assert done(promises.promise("b", 1)) == [1]


def test_what_was_promised_is_there_after_a_power_cut_at_any_step() -> None:
    files = SimulatedFiles()
    opened(files)
    first = files.steps
    for cut_at in range(first, first + 12):
        files = SimulatedFiles()
        promises = opened(files)
        said = done(promises.promise("a", 5))
        assert said == [5]
        files.cut_at = cut_at + 5
        outcome = done(promises.promise("a", 9))
        found = files.after_power_cut(Random(cut_at))
        kept = opened(found).epochs["a"]
        assert kept >= (9 if outcome == [9] else 5)
        if outcome != [9]:
            assert outcome[0].check(PowerCut)


def test_every_run_has_a_higher_number() -> None:
    files = SimulatedFiles()
    first = opened(files).incarnation
    assert opened(files.after_kill()).incarnation == first + 1
    assert opened(SimulatedFiles(), now_ms=1000).incarnation == 1000


def test_an_epoch_that_could_not_be_written_is_not_said_and_lower_ones_are_refused_nevertheless() -> None:
    files = SimulatedFiles()
    promises = opened(files)
    assert done(promises.promise("a", 1)) == [1]
    files.failing = "No space left on device"
    (failure,) = done(promises.promise("a", 2))
    assert failure.check(ClusterError)
    (failure,) = done(promises.promise("a", 1))
    assert failure.check(ClusterError)
    files.failing = None
    assert done(promises.promise("a", 1)) == [2]


@pytest.mark.parametrize("position", [0, 8, 12, 15, -1])
def test_a_damaged_file_refuses_to_start(position: int) -> None:
    files = SimulatedFiles()
    assert done(opened(files).promise("a", 1)) == [1]
    content = bytearray(files.read(FILE_NAME) or b"")
    content[position] ^= 0xFF
    damaged = SimulatedFiles.with_content(FILE_NAME, bytes(content))
    with pytest.raises(PromisesError, match="damaged"):
        opened(damaged)


def test_the_file_of_another_node_refuses_to_start() -> None:
    files = SimulatedFiles()
    opened(files)
    with pytest.raises(PromisesError, match="of n1, not of n2"):
        opened(files.after_kill(), "n2")


def test_promises_are_bounded() -> None:
    promises = opened(SimulatedFiles())
    promises._epochs.update({f"disk{number}": 1 for number in range(MAXIMUM_PROMISES)})
    (failure,) = done(promises.promise("one more", 1))
    assert failure.check(ClusterError)

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from csvd.storage.disk import StorageError
from csvd.storage.pool import OWN_THREADS, DiskPool, Job, Lane, Manner
from tests.unit.storage.pool_doubles import HeldThreads, PoolClock, outcomes_of


class Bench:
    """A pool with held threads, and the batches that its lanes ran."""

    def __init__(self, *, threads: int = 4, queue_limit: int = 1000, batch_jobs: int = 64) -> None:
        self.clock = PoolClock()
        self.threads = HeldThreads()
        self.pool = DiskPool(
            self.clock,
            threads=threads,
            queue_limit=queue_limit,
            batch_jobs=batch_jobs,
            batch_bytes=1 << 20,
            thread_pool=self.threads,
        )
        self.batches: list[list[Job]] = []

    def lane(self) -> Lane[Job]:
        return self.pool.lane(self._run)

    def _run(self, batch: Sequence[Job]) -> None:
        self.batches.append(list(batch))

    def jobs(self, lane: Lane[Job], count: int, manner: Manner = Manner.TOGETHER, length_bytes: int = 0) -> list[Job]:
        jobs = [Job(length_bytes) for _ in range(count)]
        for job in jobs:
            lane.submit(job, manner)
        return jobs

    def end_pass(self) -> None:
        self.clock.advance(0)

    def run_all(self) -> None:
        while self.threads.held or self.clock.getDelayedCalls():
            self.end_pass()
            while self.threads.held:
                self.threads.run_one()
                self.end_pass()


def test_the_jobs_of_one_pass_are_one_hand_off_and_come_back_with_one_call() -> None:
    bench = Bench()
    jobs = bench.jobs(bench.lane(), 10)
    fired = outcomes_of(*(job.deferred for job in jobs))
    assert bench.threads.hand_offs == 0, "not before the pass is over"
    bench.end_pass()
    assert bench.threads.hand_offs == 1
    bench.threads.run_one()
    assert bench.clock.calls_from_thread == 1
    assert fired == [], "not in the thread"
    bench.end_pass()
    assert fired == [None] * 10
    assert bench.batches == [jobs]
    assert bench.pool.unfinished == 0


def test_batches_that_are_done_when_the_reactor_gets_to_it_come_back_with_one_call() -> None:
    bench = Bench()
    lane = bench.lane()
    fired: list[list[Any]] = []
    for _ in range(3):
        fired.append(outcomes_of(*(job.deferred for job in bench.jobs(lane, 2))))
        bench.end_pass()
    assert bench.threads.hand_offs == 3
    bench.threads.run_one()
    bench.threads.run_one()
    assert bench.clock.calls_from_thread == 1
    bench.end_pass()
    assert fired == [[None, None], [None, None], []]
    bench.threads.run_one()
    assert bench.clock.calls_from_thread == 2
    bench.end_pass()
    assert fired[2] == [None, None]
    assert bench.pool.unfinished == 0


def test_jobs_of_another_pass_are_another_batch() -> None:
    bench = Bench()
    lane = bench.lane()
    bench.jobs(lane, 3)
    bench.end_pass()
    bench.jobs(lane, 2)
    bench.end_pass()
    assert bench.threads.hand_offs == 2
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [3, 2]


def test_jobs_that_wait_for_the_device_spread_over_the_free_threads() -> None:
    bench = Bench(threads=4)
    bench.jobs(bench.lane(), 10, Manner.APART)
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [3, 3, 2, 2]


def test_no_more_batches_than_threads_are_under_way_and_the_rest_goes_in_larger_ones() -> None:
    bench = Bench(threads=2)
    lane = bench.lane()
    for _ in range(5):
        bench.jobs(lane, 2)
        bench.end_pass()
    assert bench.threads.hand_offs == 2
    bench.threads.run_one()
    bench.end_pass()
    assert bench.threads.hand_offs == 3
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [2, 2, 6]


def test_single_file_batches_of_a_lane_never_overlap_and_those_of_two_lanes_may() -> None:
    bench = Bench()
    first, second = bench.lane(), bench.lane()
    bench.jobs(first, 2, Manner.SINGLE_FILE)
    bench.end_pass()
    bench.jobs(first, 1, Manner.SINGLE_FILE)
    bench.end_pass()
    bench.jobs(first, 4, Manner.SINGLE_FILE)
    bench.jobs(second, 1, Manner.SINGLE_FILE)
    bench.end_pass()
    assert bench.threads.hand_offs == 2, "one of each lane"
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [2, 1, 5]


def test_other_jobs_go_on_beside_a_single_file_batch() -> None:
    bench = Bench()
    lane = bench.lane()
    bench.jobs(lane, 1, Manner.SINGLE_FILE)
    bench.end_pass()
    (job,) = bench.jobs(lane, 1)
    bench.end_pass()
    assert bench.threads.hand_offs == 2
    bench.threads.held.pop()()
    bench.end_pass()
    assert job.deferred.called


def test_a_batch_holds_no_more_than_its_limits() -> None:
    bench = Bench(threads=1, batch_jobs=4)
    bench.jobs(bench.lane(), 10)
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [4, 4, 2]

    bench = Bench(threads=1)
    lane = bench.lane()
    bench.jobs(lane, 3, length_bytes=400 << 10)
    bench.jobs(lane, 2, length_bytes=3 << 20)
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [2, 1, 1, 1], "one job may be larger than the limit"


def test_with_one_thread_lanes_and_manners_take_turns() -> None:
    bench = Bench(threads=1, batch_jobs=1)
    first, second = bench.lane(), bench.lane()
    writes = bench.jobs(first, 3)
    reads = bench.jobs(first, 3, Manner.APART)
    (other,) = bench.jobs(second, 1)
    bench.run_all()
    order = [batch[0] for batch in bench.batches]
    assert order.index(other) == 1
    assert order.index(reads[0]) < order.index(writes[1])
    assert order.index(writes[1]) < order.index(reads[1])


def test_a_disk_that_hangs_takes_no_more_from_others_than_what_all_share() -> None:
    bench = Bench(threads=8)
    hanging, other, third = bench.lane(), bench.lane(), bench.lane()
    bench.jobs(hanging, 100, Manner.APART)
    bench.end_pass()
    bench.jobs(hanging, 100, Manner.APART)
    bench.end_pass()
    assert bench.threads.hand_offs == 8, "alone it has all"
    stuck = list(bench.threads.held)
    bench.threads.held.clear()
    for lane in (other, third):
        jobs = [bench.jobs(lane, 1, manner)[0] for manner in (Manner.APART, Manner.TOGETHER, Manner.SINGLE_FILE)]
        bench.run_all()
        assert all(job.deferred.called for job in jobs)
    assert bench.threads.count == 8 + OWN_THREADS
    bench.threads.held += stuck
    bench.run_all()
    assert bench.pool.unfinished == 0


def test_lanes_share_what_is_not_their_own() -> None:
    bench = Bench(threads=6)
    lanes = [bench.lane() for _ in range(4)]
    for _ in range(10):
        for lane in lanes:
            bench.jobs(lane, 1, Manner.APART)
            bench.end_pass()
    assert bench.threads.hand_offs == 4 * OWN_THREADS + (6 - OWN_THREADS)
    while bench.threads.held:
        bench.threads.held.pop()()
        bench.end_pass()
        assert bench.pool._borrowed == sum(max(0, lane.under_way - OWN_THREADS) for lane in lanes) <= 6 - OWN_THREADS
    assert bench.pool.unfinished == 0
    assert [lane.under_way for lane in lanes] == [0] * 4


def test_a_job_that_fails_fails_alone() -> None:
    bench = Bench()
    first, second = bench.jobs(bench.lane(), 2)
    fired = outcomes_of(first.deferred, second.deferred)
    error = StorageError("read", errno.EIO, where="disk")
    first.error = error
    bench.run_all()
    assert fired == [error, None]


def test_a_fault_of_the_runner_fails_its_jobs_and_the_pool_goes_on() -> None:
    bench = Bench()

    def broken(_batch: Sequence[Job]) -> None:
        raise ZeroDivisionError("a fault")

    jobs = bench.jobs(bench.pool.lane(broken), 2)
    fired = outcomes_of(*(job.deferred for job in jobs))
    bench.run_all()
    assert [str(outcome) for outcome in fired] == [
        "storage pool: run at byte 0 failed: ZeroDivisionError('a fault')",
    ] * 2
    (job,) = bench.jobs(bench.lane(), 1)
    bench.run_all()
    assert job.deferred.called


def test_overflow_is_pressure_and_no_job_is_lost() -> None:
    bench = Bench(threads=1, queue_limit=10, batch_jobs=3)
    told: list[bool] = []
    unsubscribe = bench.pool.on_pressure(told.append)
    lane = bench.lane()
    jobs = bench.jobs(lane, 9)
    assert told == []
    jobs += bench.jobs(lane, 16)
    assert (told, bench.pool.under_pressure) == ([True], True), "told once"
    bench.end_pass()
    while bench.pool.unfinished > 7:
        bench.threads.run_one()
        bench.end_pass()
    assert told == [True]
    bench.run_all()
    assert (told, bench.pool.under_pressure) == ([True, False], False)
    assert all(job.deferred.called for job in jobs)
    unsubscribe()
    bench.jobs(lane, 12)
    assert told == [True, False]


def test_jobs_that_a_result_submits_join_the_next_pass() -> None:
    bench = Bench()
    lane = bench.lane()
    first, second = bench.jobs(lane, 2)
    for job in (first, second):
        job.deferred.addCallback(lambda _: lane.submit(Job(), Manner.TOGETHER))
    bench.end_pass()
    bench.threads.run_one()
    bench.end_pass()
    bench.end_pass()
    assert bench.threads.hand_offs == 2
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [2, 2]


def test_a_cancelled_job_does_not_disturb_the_others() -> None:
    bench = Bench()
    first, second = bench.jobs(bench.lane(), 2)
    fired = outcomes_of(first.deferred, second.deferred)
    first.deferred.cancel()
    bench.run_all()
    assert isinstance(fired[0], CancelledError)
    assert fired[1] is None
    assert bench.pool.unfinished == 0


def test_when_idle_fires_after_the_last_job() -> None:
    bench = Bench()
    lane = bench.lane()
    assert outcomes_of(lane.when_idle()) == [None]
    bench.jobs(lane, 1)
    idle = outcomes_of(lane.when_idle())
    bench.end_pass()
    bench.threads.run_one()
    assert idle == []
    bench.end_pass()
    assert idle == [None]


def test_a_lane_is_not_idle_before_all_that_came_back_was_told() -> None:
    # Two batches in one pass: who is told of the second may submit more.
    bench = Bench()
    lane = bench.lane()
    order: list[str] = []
    (first,) = bench.jobs(lane, 1)
    bench.end_pass()
    (second,) = bench.jobs(lane, 1)
    second.deferred.addCallback(lambda _: lane.submit(Job(), Manner.TOGETHER))
    second.deferred.addCallback(lambda _: order.append("more"))
    lane.when_idle().addCallback(lambda _: order.append("idle"))
    bench.end_pass()
    while bench.threads.held:
        bench.threads.run_one()
    bench.end_pass()
    assert first.deferred.called
    assert order == []
    bench.run_all()
    assert order == ["more", "idle"]


def test_stop_waits_for_what_was_submitted_and_refuses_more() -> None:
    bench = Bench()
    lane = bench.lane()
    (job,) = bench.jobs(lane, 1)
    stopped = outcomes_of(bench.pool.stop())
    refused = outcomes_of(lane.submit(Job(), Manner.TOGETHER))
    assert isinstance(refused[0], StorageError)
    assert refused[0].errno == errno.ESHUTDOWN
    assert stopped == []
    assert bench.threads.running
    bench.run_all()
    assert job.deferred.called
    assert stopped == [None]
    assert not bench.threads.running


@pytest.mark.parametrize("manner", list(Manner))
def test_every_job_runs_once_in_the_order_of_its_manner(manner: Manner) -> None:
    bench = Bench(threads=3, batch_jobs=5)
    lane = bench.lane()
    jobs = bench.jobs(lane, 23, manner)
    bench.run_all()
    assert [job for batch in bench.batches for job in batch] == jobs

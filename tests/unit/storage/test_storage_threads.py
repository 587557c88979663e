from __future__ import annotations

import threading
from queue import SimpleQueue

from csvd.storage.threads import WorkerThreads


def test_calls_run_in_as_many_threads_as_there_are_at_once() -> None:
    threads = WorkerThreads(3, "test")
    threads.start()
    together = threading.Barrier(3, timeout=10)
    names: SimpleQueue[str] = SimpleQueue()

    def meet(number: int) -> None:
        together.wait()
        names.put(f"{number} in {threading.current_thread().name}")

    for number in range(3):
        threads.callInThread(meet, number)
    met = sorted(names.get(timeout=10) for _ in range(3))
    assert [name[0] for name in met] == ["0", "1", "2"]
    assert {name.split(" in ")[1] for name in met} == {"test-0", "test-1", "test-2"}
    threads.stop()


def test_stop_ends_what_was_handed_over_first() -> None:
    threads = WorkerThreads(2, "stopping")
    threads.start()
    done: list[int] = []
    for number in range(100):
        threads.callInThread(done.append, number)
    threads.stop()
    assert sorted(done) == list(range(100))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stopping")]


def test_a_fault_does_not_end_the_thread() -> None:
    threads = WorkerThreads(1, "faulty")
    threads.start()
    done: list[str] = []

    def fault() -> None:
        raise ZeroDivisionError

    threads.callInThread(fault)
    threads.callInThread(done.append, "after it")
    threads.stop()
    assert done == ["after it"]


def test_more_threads_come_when_they_are_needed_and_stay() -> None:
    threads = WorkerThreads(1, "growing")
    threads.start()
    together = threading.Barrier(3, timeout=10)
    threads.have(3)
    for _ in range(3):
        threads.callInThread(together.wait)
    threads.have(2)
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("growing")]) == 3
    threads.stop()
    assert not together.broken
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("growing")]

from __future__ import annotations

from threading import get_ident
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.storage.loop_calls import LoopCalls, loop_calls
from csvd.storage.threads import WorkerThreads
from tests.unit.storage.reactor_loop import run_in_reactor


def test_calls_run_in_the_thread_of_the_loop_after_what_is_running() -> None:
    async def main(reactor: Any) -> None:
        running: Deferred[None] = Deferred()
        reactor.callLater(0, running.callback, None)
        await running
        calls = loop_calls(reactor)
        assert isinstance(calls, LoopCalls)
        threads = WorkerThreads(1, "test")
        threads.start()
        told: list[tuple[str, int]] = []
        done: Deferred[None] = Deferred()

        def tell(what: str) -> None:
            told.append((what, get_ident()))
            if len(told) == 2:
                done.callback(None)

        calls.callLater(0, tell, "soon")
        assert told == []
        threads.callInThread(calls.callFromThread, tell, "from a thread")
        await done
        assert sorted(told) == [("from a thread", get_ident()), ("soon", get_ident())]
        threads.stop()

    run_in_reactor(main)


def test_a_reactor_that_does_not_run_and_one_of_another_kind_have_none() -> None:
    async def main(reactor: Any) -> None:
        assert loop_calls(reactor) is None, "its startup comes before the loop"

    run_in_reactor(main)
    assert loop_calls(Clock()) is None

"""The place of a worker: its process is brought up, watched, started again with pauses, and ended in good order."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.exports.serving import Plan
from csvd.iscsi.keepalive import KEEPALIVE
from csvd.target.listener import listening_socket
from csvd.workers.channel import Channel
from csvd.workers.protocol import Notice, Request, Resize, WorkerError
from csvd.workers.slot import BACKOFF_S, CHANGE_S, MOST_BACKOFF_S, SILENCE_S, STEADY_S, WAIT_S, Slot
from tests.unit.target.fake_reactor import FakeReactor

UNITS = {"units": {"iqn.x": [{"number": 0, "size_bytes": 512}]}}
REPORT = {
    "sessions": [{"target": "iqn.x", "tsih": 1}],
    "statistics": {"units": [], "commands": []},
    "resident_bytes": 5,
    "open_files": 6,
}


class Process:
    """A worker's process as its daemon knows it: a number, an end, and who answers on its channel."""

    def __init__(self, rig: Rig, number: int, channel: socket.socket, ended: Any) -> None:
        self.rig = rig
        self.process_id = number
        self.killed = False
        self.asked: list[str] = []
        self.descriptors = 0
        self._ended = ended
        self.channel = Channel(rig.reactor, channel.dup(), answer=self._answer)

    async def _answer(self, request: Request, descriptors: Sequence[int]) -> Any:
        self.asked.append(request.method)
        self.descriptors += len(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        answer = self.rig.answers.get(request.method)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            return await answer
        return answer

    def kill(self) -> None:
        if not self.killed:
            self.killed = True
            self.rig.reactor.callLater(0, self.end, "killed by SIGKILL")

    def end(self, why: str = "exit status 1") -> None:
        self.channel.close()
        self._ended(why)


class Rig:
    """A slot, and the processes that it starts."""

    def __init__(self, folder: Path) -> None:
        self.reactor = FakeReactor()
        self.processes: list[Process] = []
        self.told: list[tuple[str, str, str]] = []
        self.counted: list[Any] = []
        self.ends = 0
        self.fails: Exception | None = None
        self.answers: dict[str, Any] = {"commit": UNITS, "report": REPORT, "resize": UNITS, "drop_session": True}
        self.directory = os.open(folder, os.O_RDONLY)
        self.slot = Slot(
            self.reactor,
            0,
            launch=self._launch,
            directory=(str(folder), self.directory),
            keepalive=KEEPALIVE,
            tell=lambda *event: self.told.append(event),
            counted=self.counted.append,
            ended=self._ended,
        )

    def _launch(self, number: int, channel: socket.socket, ended: Any) -> Process:
        if self.fails is not None:
            raise self.fails
        assert number == 1
        self.processes.append(Process(self, 100 + len(self.processes), channel, ended))
        return self.processes[-1]

    def _ended(self) -> None:
        self.ends += 1

    def turns(self, count: int = 40) -> None:
        for _ in range(count):
            self.reactor.turn()

    def pass_s(self, seconds: float) -> None:
        self.reactor.advance(seconds)
        self.turns()

    def do(self, doing: Any) -> list[Any]:
        """Begin something; what it comes to is in the list as soon as it has come."""
        results: list[Any] = []
        Deferred.fromCoroutine(doing).addBoth(results.append)
        self.turns()
        return results

    def started(self) -> Slot:
        assert self.do(self.slot.start(Plan())) == [None]
        return self.slot

    def close(self) -> None:
        self.answers["stop"] = None
        stopping = self.do(self.slot.stop())
        if self.processes and not stopping:
            self.processes[-1].end("exit status 0")
            self.turns()
        assert stopping == [None]
        os.close(self.directory)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def error(results: list[Any]) -> str:
    return str(results[0].value)


def test_a_process_is_brought_to_what_it_is_to_serve(rig: Rig) -> None:
    slot = rig.started()
    (process,) = rig.processes
    assert process.asked == ["begin", "prepare", "commit"]
    assert process.descriptors == 1
    assert (slot.is_up, slot.face()["process_id"], slot.heard.units) == (True, 100, UNITS["units"])


def test_the_first_process_that_can_not_serve_ends_the_start(rig: Rig) -> None:
    rig.answers["prepare"] = ConfigError("can not be opened", where="a.img")
    (result,) = rig.do(rig.slot.start(Plan()))
    assert isinstance(result.value, ConfigError)
    assert str(result.value) == "a.img: can not be opened"
    assert rig.processes[0].killed
    rig.pass_s(60.0)
    assert len(rig.processes) == 1


def test_a_process_that_ends_is_started_again_and_gets_its_sockets(rig: Rig) -> None:
    slot = rig.started()
    listening = listening_socket("127.0.0.1:0")
    rig.do(slot.set_sockets({(1, "127.0.0.1:3260"): listening}))
    rig.do(slot.report())
    assert len(slot.heard.sessions) == 1
    rig.processes[0].end("killed by SIGKILL")
    rig.turns()
    assert (slot.face()["state"], slot.face()["last_end"], slot.heard.sessions) == ("down", "killed by SIGKILL", [])
    assert slot.heard.units == UNITS["units"]
    assert rig.ends == 1
    rig.pass_s(BACKOFF_S)
    assert rig.processes[1].asked == ["begin", "prepare", "commit", "accept"]
    assert (slot.is_up, slot.restarts) == (True, 1)
    assert [text for _, text, _ in rig.told] == [
        "worker 1 ended (killed by SIGKILL); it is started again in 0.1 s",
        "worker 1 serves again",
    ]


def test_the_pauses_grow_to_their_most_and_are_short_again_after_a_steady_time(rig: Rig) -> None:
    rig.started()
    rig.fails = WorkerError("can not be started", where="worker 1")
    rig.processes[0].end()
    for _ in range(12):
        rig.pass_s(MOST_BACKOFF_S)
    pauses = [text.rpartition(" in ")[2] for _, text, _ in rig.told if " again in " in text]
    assert pauses[:8] == ["0.1 s", "0.2 s", "0.4 s", "0.8 s", "1.6 s", "3.2 s", "5 s", "5 s"]
    rig.fails = None
    rig.pass_s(MOST_BACKOFF_S)
    assert rig.slot.is_up
    rig.pass_s(STEADY_S)
    rig.processes[-1].end()
    rig.pass_s(BACKOFF_S)
    assert rig.slot.is_up


def test_a_process_that_closes_its_channel_is_ended(rig: Rig) -> None:
    rig.started()
    rig.processes[0].channel.close()
    rig.turns()
    assert rig.processes[0].killed
    rig.pass_s(BACKOFF_S)
    assert rig.slot.is_up


def test_a_change_is_prepared_and_made(rig: Rig) -> None:
    slot = rig.started()
    assert rig.do(slot.prepare(Plan(), ())) == [None]
    assert rig.do(slot.commit(Plan())) == [None]
    assert rig.do(slot.prepare(Plan(), ())) == [None]
    assert rig.do(slot.abandon()) == [None]
    assert rig.do(slot.abandon()) == [None]
    assert rig.processes[0].asked[3:] == ["prepare", "commit", "prepare", "abandon"]


def test_a_change_that_a_worker_refuses_is_told_with_its_words(rig: Rig) -> None:
    slot = rig.started()
    rig.answers["prepare"] = ConfigError("can not be opened", where="a.img")
    assert error(rig.do(slot.prepare(Plan(), ()))) == "a.img: can not be opened"
    assert slot.is_up


def test_a_worker_that_does_not_let_go_is_ended_before_the_change_is_done(rig: Rig) -> None:
    slot = rig.started()
    rig.do(slot.prepare(Plan(), ()))
    rig.answers["commit"] = Deferred()
    committing = rig.do(slot.commit(Plan()))
    assert committing == []
    rig.answers["commit"] = UNITS
    rig.pass_s(CHANGE_S)
    assert rig.processes[0].killed
    assert committing == [None]
    rig.pass_s(BACKOFF_S)
    assert slot.is_up


def test_a_process_that_died_between_the_two_is_followed_by_one_that_serves_the_change(rig: Rig) -> None:
    slot = rig.started()
    rig.do(slot.prepare(Plan(), ()))
    rig.processes[0].end()
    plan = Plan()
    assert rig.do(slot.commit(plan)) == [None]
    rig.pass_s(BACKOFF_S)
    assert slot.is_up
    assert slot.plan is plan


def test_a_change_waits_for_a_worker_that_is_started_again_but_not_for_ever(rig: Rig) -> None:
    slot = rig.started()
    rig.processes[0].end()
    preparing = rig.do(slot.prepare(Plan(), ()))
    assert preparing == []
    rig.pass_s(BACKOFF_S)
    assert preparing == [None]
    rig.fails = WorkerError("can not be started")
    rig.processes[1].end()
    preparing = rig.do(slot.prepare(Plan(), ()))
    rig.pass_s(WAIT_S)
    assert "does not serve at the moment" in error(preparing)
    rig.fails = None
    rig.pass_s(MOST_BACKOFF_S)


def test_what_a_worker_reports_is_kept_and_one_that_does_not_is_called_silent(rig: Rig) -> None:
    slot = rig.started()
    rig.do(slot.report())
    assert (slot.heard.sessions, slot.face()["resident_bytes"]) == (REPORT["sessions"], 5)
    assert rig.counted == [REPORT["statistics"]]
    rig.answers["report"] = Deferred()
    reporting = rig.do(slot.report())
    rig.pass_s(10.0)
    assert (reporting, slot.face()["state"]) == ([None], "silent")
    rig.answers["report"] = REPORT
    rig.do(slot.report())
    assert slot.face()["state"] == "up"


def test_a_worker_that_is_silent_for_long_is_ended_and_one_that_was_for_a_while_is_not(rig: Rig) -> None:
    slot = rig.started()
    rig.answers["report"] = Deferred()
    for _ in range(int(SILENCE_S / 5.0) - 1):
        rig.do(slot.report())
        rig.pass_s(5.0)
    rig.answers["report"] = REPORT
    rig.do(slot.report())
    rig.answers["report"] = Deferred()
    for _ in range(int(SILENCE_S / 5.0)):
        assert not rig.processes[0].killed
        rig.do(slot.report())
        rig.pass_s(5.0)
    rig.do(slot.report())
    rig.answers["report"] = REPORT
    rig.pass_s(5.0)
    assert rig.processes[0].killed
    rig.pass_s(BACKOFF_S)
    assert slot.is_up


def test_a_report_that_makes_no_sense_changes_nothing(rig: Rig) -> None:
    slot = rig.started()
    rig.answers["report"] = {"sessions": 3}
    assert rig.do(slot.report()) == [None]
    assert (slot.heard.sessions, rig.counted) == ([], [])


def test_a_plan_in_other_words_is_what_the_next_process_gets(rig: Rig) -> None:
    slot, plan = rig.started(), Plan()
    assert rig.do(slot.note(plan)) == [None]
    assert (slot.plan is plan, rig.processes[0].asked[-1]) == (True, "note")
    rig.answers["note"] = WorkerError("is ill")
    rig.do(slot.note(plan))
    assert rig.processes[0].killed
    rig.pass_s(BACKOFF_S)
    assert slot.is_up


def test_what_a_worker_tells_is_told(rig: Rig) -> None:
    rig.started()
    rig.processes[0].channel.tell(Notice("login", "somebody", "iqn.x"))
    rig.turns()
    assert rig.told == [("login", "somebody", "iqn.x")]


def test_sockets_that_are_not_wanted_are_closed_here_and_there(rig: Rig) -> None:
    slot = rig.started()
    first, second = listening_socket("127.0.0.1:0"), listening_socket("127.0.0.1:0")
    rig.do(slot.set_sockets({(1, "a:1"): first, (1, "b:1"): second}))
    rig.do(slot.set_sockets({(1, "b:1"): second}))
    assert rig.processes[0].asked[3:] == ["accept", "accept", "refuse"]
    assert (first.fileno(), second.fileno() >= 0) == (-1, True)


def test_a_size_and_a_session_are_asked_of_the_worker(rig: Rig) -> None:
    slot = rig.started()
    assert rig.do(slot.resize(Resize("iqn.x", 0, 512, False))) == [None]
    rig.answers["resize"] = WorkerError("no room", kind="StorageError")
    assert error(rig.do(slot.resize(Resize("iqn.x", 0, 512, False)))) == "no room"


def test_the_stop_lets_it_drain_and_waits_for_its_end(rig: Rig) -> None:
    slot = rig.started()
    rig.answers["stop"] = None
    stopping = rig.do(slot.stop())
    assert rig.processes[0].asked[-1] == "stop"
    assert (stopping, slot.face()["state"]) == ([], "stopping")
    rig.processes[0].end("exit status 0")
    rig.turns()
    assert (stopping, slot.face()["state"]) == ([None], "stopped")
    assert not rig.processes[0].killed
    rig.pass_s(60.0)
    assert len(rig.processes) == 1


def test_a_worker_that_does_not_stop_is_ended(rig: Rig) -> None:
    slot = rig.started()
    rig.answers["stop"] = Deferred()
    stopping = rig.do(slot.stop())
    rig.pass_s(100.0)
    assert (rig.processes[0].killed, stopping) == (True, [None])


def test_a_stop_during_a_pause_starts_nothing_more(rig: Rig) -> None:
    rig.started()
    rig.processes[0].end()
    rig.turns()
    assert rig.do(rig.slot.stop()) == [None]
    rig.pass_s(60.0)
    assert len(rig.processes) == 1

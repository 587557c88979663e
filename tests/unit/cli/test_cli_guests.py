"""csvd status, vm, migrate, session, event: what they ask and what they print."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from csvd.cli import event, migrate, status
from csvd.cli.output import table
from csvd.cli.progress import ProgressBar, progress_line
from tests.unit.api.fake_daemon import FakeDaemon, error
from tests.unit.cli.conftest import Shell

GUEST = {
    "name": "g",
    "owner": "node1",
    "epoch": 2,
    "state": "running",
    "reason": "",
    "operation": "",
    "image": "/x/g.ram",
    "spec": {"driver": "process", "memory_bytes": 1 << 28},
    "counter": 17,
    "migration": None,
}


def progress(report: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "migration_id": "m1",
        "guest": "g",
        "source": "node1",
        "destination": "node2",
        "state": "round 1",
        "round": 1,
        "memory_bytes": 1 << 28,
        "bytes_sent": 1 << 27,
        "remaining_bytes": 1 << 27,
        "throughput_bytes_per_s": 2.0**28,
        "dirty_bytes_per_s": 0.0,
        "expected_downtime_ms": None,
        "percent": 50.0,
        "elapsed_s": 0.5,
        "tracker": "page-compare",
        "is_cancellable": True,
        "started_s": 1.0,
        "report": report,
        **changes,
    }


def report(state: str = "completed", **changes: Any) -> dict[str, Any]:
    return {
        "migration_id": "m1",
        "guest": "g",
        "source": "node1",
        "destination": "node2",
        "state": state,
        "reason": "",
        "notes": ["one note"],
        "memory_bytes": 1 << 28,
        "rounds": [
            {
                "number": 1,
                "is_last": False,
                "pages_scanned": 65536,
                "pages_dirty": 32768,
                "pages_zero": 0,
                "bytes_sent": 1 << 27,
                "seconds": 0.5,
                "scan_seconds": 0.1,
                "throughput_bytes_per_s": 2.0**28,
                "dirty_bytes_per_s": None,
            },
            {
                "number": 2,
                "is_last": True,
                "pages_scanned": 65536,
                "pages_dirty": 16,
                "pages_zero": 1,
                "bytes_sent": 65536,
                "seconds": 0.012,
                "scan_seconds": 0.01,
                "throughput_bytes_per_s": 2.0**22,
                "dirty_bytes_per_s": 131072.0,
            },
        ],
        "bytes_sent": (1 << 27) + 65536,
        "zero_pages_elided": 32000,
        "downtime_ms": 12.34,
        "downtime_measured": "by one clock",
        "total_s": 0.61,
        "tracker": "page-compare",
        **changes,
    }


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "POLL_S", 0)
    monkeypatch.setattr(status, "WATCH_PAUSE_S", 0)
    monkeypatch.setattr(event, "FOLLOW_PAUSE_S", 0)


# vm


def test_a_guest_is_made_with_its_memory_in_bytes(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/guests"] = (201, GUEST)
    outcome = csvd("vm", "create", "g", "--memory", "256M", "--pages-per-s", "2000", "--node", "node1")
    assert (outcome.status, outcome.out) == (0, "guest g is running on node1\n")
    spec = {"memory_bytes": 1 << 28, "pages_per_s": 2000.0}
    assert daemon.asked == [("POST /v1/guests", {"name": "g", "spec": spec, "node": "node1"})]


def test_what_is_not_given_is_left_to_the_daemon(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/guests"] = (201, GUEST)
    csvd("vm", "create", "g", "--memory", "1M", "--backing", "shm")
    assert daemon.asked[0][1] == {"name": "g", "spec": {"memory_bytes": 1 << 20, "pages_per_s": 0.0, "backing": "shm"}}


@pytest.mark.parametrize("size", ["x", "1Q", "-1", "0.3"])
def test_a_memory_that_is_no_size_is_wrong_usage(daemon: FakeDaemon, csvd: Shell, size: str) -> None:
    outcome = csvd("vm", "create", "g", f"--memory={size}")
    assert outcome.status == 2
    assert "Invalid value for '--memory'" in outcome.err
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        ("start", "POST /v1/guests/g/start"),
        ("stop", "POST /v1/guests/g/stop"),
        ("pause", "POST /v1/guests/g/pause"),
        ("resume", "POST /v1/guests/g/resume"),
    ],
)
def test_a_guest_is_steered_and_its_new_state_told(daemon: FakeDaemon, csvd: Shell, verb: str, asked: str) -> None:
    daemon.answers[asked] = (200, {**GUEST, "state": "x"})
    assert csvd("vm", verb, "g").out == "guest g is x on node1\n"
    assert json.loads(csvd("vm", verb, "g", "--json").out)["state"] == "x"


def test_a_guest_is_removed(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["DELETE /v1/guests/g"] = (200, {"name": "g", "removed": True})
    assert csvd("vm", "rm", "g").out == "guest g is removed\n"


def test_the_daemons_refusal_is_one_line_and_exit_1(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["DELETE /v1/guests/g"] = (409, error("it runs", where="guest g", hint="stop it"))
    outcome = csvd("vm", "rm", "g")
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "csvd: guest g: it runs (stop it)\n")


def test_guests_are_listed_in_a_table(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/guests"] = (200, {"guests": [GUEST, {**GUEST, "name": "longer", "spec": {}}]})
    assert csvd("vm", "ls").out == (
        "GUEST   OWNER  EPOCH  STATE    MEMORY\n"
        "g       node1      2  running  256.0 MiB\n"
        "longer  node1      2  running  -\n"
    )
    assert [one["name"] for one in json.loads(csvd("vm", "ls", "--json").out)["guests"]] == ["g", "longer"]


def test_a_guest_is_shown_with_its_latest_migration(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/guests/g"] = (200, {**GUEST, "migration": progress(report())})
    out = csvd("vm", "show", "g").out
    assert out.startswith("guest g  running  on node1, epoch 2\n")
    assert "  memory_bytes: 268435456 (256.0 MiB)\n" in out
    assert "  counter: 17\n" in out
    assert "  reason" not in out
    assert "latest migration:\nguest g  node1 -> node2  completed in 0.61 s\n" in out
    daemon.answers["GET /v1/guests/g"] = (200, {**GUEST, "migration": progress()})
    assert "g -> node2  round 1" in csvd("vm", "show", "g").out


@pytest.mark.parametrize(("is_intact", "exit_status", "word"), [(True, 0, "intact"), (False, 1, "DAMAGED")])
def test_a_damaged_guest_is_exit_1(
    daemon: FakeDaemon, csvd: Shell, is_intact: bool, exit_status: int, word: str
) -> None:
    found = {"pages_checked": 9, "pages_bad": 1, "missing_rewrites": 2, "stray_pages": 3, "counter": 4}
    daemon.answers["GET /v1/guests/g/verify"] = (200, {**found, "is_intact": is_intact})
    outcome = csvd("vm", "verify", "g")
    assert outcome.status == exit_status
    assert outcome.out == (f"guest g is {word}: 9 pages checked, 1 bad, 2 rewrites missing, 3 stray pages; count 4\n")
    outcome = csvd("vm", "verify", "g", "--json")
    assert outcome.status == exit_status
    assert json.loads(outcome.out)["pages_bad"] == 1


# migrate


@pytest.mark.parametrize("words", [["migrate", "g"], ["vm", "migrate", "g"]])
def test_a_migration_is_watched_to_its_report(daemon: FakeDaemon, csvd: Shell, words: list[str]) -> None:
    daemon.answers["POST /v1/guests/g/migrations"] = (202, progress(state="setup", round=0))
    daemon.answers["GET /v1/guests/g/migration"] = [
        (200, progress()),
        (200, progress()),
        (200, progress(report(), state="completed", round=2, percent=100.0, remaining_bytes=0)),
    ]
    outcome = csvd(*words, "--to", "node2")
    assert outcome.status == 0
    assert daemon.asked[0] == ("POST /v1/guests/g/migrations", {"to": "node2"})
    assert outcome.out.splitlines() == [
        "guest g  node1 -> node2  completed in 0.61 s",
        "",
        "ROUND        PAGES  DIRTY  ZERO  SENT       TIME     THROUGHPUT   DIRTIED",
        "1            65536  32768     0  128.0 MiB  0.500 s  256.0 MiB/s  -",
        "2 (stopped)  65536     16     1  64.0 KiB   0.012 s  4.0 MiB/s    128.0 KiB/s",
        "",
        "memory 256.0 MiB, sent 128.1 MiB, 32000 pages of zeros left out",
        "downtime 12.3 ms (by one clock)",
        "written pages were found by: page-compare",
        "note: one note",
    ]
    # Not a terminal: a line for each new state, not one for each look.
    assert [line.split()[3] for line in outcome.err.splitlines()] == ["setup", "round", "completed"]


def test_a_migration_in_json_prints_its_progress_with_the_report(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/guests/g/migrations"] = (202, progress(report()))
    assert json.loads(csvd("migrate", "g", "--to", "node2", "--json").out)["report"]["downtime_ms"] == 12.34


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_migration_that_is_not_completed_is_exit_1_with_the_reason(
    daemon: FakeDaemon, csvd: Shell, state: str
) -> None:
    over = progress(report(state, reason="the destination gave up", rounds=[], downtime_ms=None))
    daemon.answers["POST /v1/guests/g/migrations"] = (202, over)
    outcome = csvd("migrate", "g", "--to", "node2")
    assert outcome.status == 1
    assert "why: the destination gave up" in outcome.out
    assert outcome.err.splitlines()[-1].startswith("csvd: guest g: the migration was not completed")
    assert state in outcome.err.splitlines()[-1]


def test_a_detached_migration_is_not_watched(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/guests/g/migrations"] = (202, progress())
    assert csvd("migrate", "g", "--to", "node2", "--detach").out == "guest g is on its way to node2\n"
    assert len(daemon.asked) == 1


def test_ctrl_c_ends_the_watching_and_says_that_the_migration_goes_on(
    daemon: FakeDaemon, csvd: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    daemon.answers["POST /v1/guests/g/migrations"] = (202, progress())
    monkeypatch.setattr(time, "sleep", interrupt)
    outcome = csvd("migrate", "g", "--to", "node2")
    assert outcome.status == 130
    assert outcome.err.strip().splitlines()[-1] == "the migration goes on; csvd vm cancel g calls it off"


def test_another_migration_that_began_meanwhile_ends_the_watching(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/guests/g/migrations"] = (202, progress())
    daemon.answers["GET /v1/guests/g/migration"] = (200, progress(migration_id="m2"))
    outcome = csvd("migrate", "g", "--to", "node2")
    assert outcome.status == 1
    assert "another migration has begun since" in outcome.err


def test_a_migration_is_called_off(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["DELETE /v1/guests/g/migration"] = (202, progress())
    assert csvd("vm", "cancel", "g").out == "the migration of guest g to node2 is being called off\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_progress_is_one_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    bar = ProgressBar(terminal)
    bar.show(progress())
    bar.show(progress(percent=75.0))
    bar.clear()
    text = terminal.getvalue()
    assert "\n" not in text
    frames = text.split("\r\x1b[2K")[1:]
    assert frames[-1] == ""
    assert all(len(frame) < 60 for frame in frames)


@pytest.mark.parametrize(("percent", "filled"), [(-5.0, 0), (0.0, 0), (50.0, 12), (100.0, 24), (130.0, 24)])
def test_the_bar_stays_within_its_bounds(percent: float, filled: int) -> None:
    line = progress_line(progress(percent=percent))
    assert f"[{'#' * filled}{'.' * (24 - filled)}]" in line


def test_the_progress_tells_what_is_left_and_how_fast() -> None:
    line = progress_line(progress(dirty_bytes_per_s=1048576.0, expected_downtime_ms=42.4))
    assert line.endswith("left 128.0 MiB  dirty 1.0 MiB/s  sent 256.0 MiB/s  downtime 42 ms")
    assert progress_line(progress()).endswith("downtime ?")


# status


def answer(**changes: Any) -> dict[str, Any]:
    def member(number: int, link: str) -> dict[str, Any]:
        facts = {"portals": [f"127.0.0.1:326{number}"], "sessions": number}
        return {
            "address": f"127.0.0.1:700{number}",
            "link": link,
            "connected": link != "down",
            "trouble": "Connection refused" if link == "down" else "",
            "facts": None if link == "down" else facts,
        }

    return {
        "node": "node1",
        "coordinator": {"node": "node2", "epoch": 4},
        "term": 9,
        "failure": "",
        "members": {"node1": member(1, "self"), "node2": member(2, "up"), "node3": member(3, "down")},
        "disks": [],
        "guests": [GUEST],
        **changes,
    }


def test_the_status_is_a_page(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/status?detail=members"] = (200, answer())
    assert csvd("status").out.splitlines() == [
        "node node1: coordinator node2, epoch 4, term 9, 2 of 3 members here",
        "",
        "NODE   ADDRESS         LINK  ROLE         PORTALS         SESSIONS",
        "node1  127.0.0.1:7001  self  -            127.0.0.1:3261         1",
        "node2  127.0.0.1:7002  up    coordinator  127.0.0.1:3262         2",
        "node3  127.0.0.1:7003  down  -            -                      -",
        "no link to node3: Connection refused",
        "",
        "GUEST  OWNER  EPOCH  STATE    MEMORY",
        "g      node1      2  running  256.0 MiB",
    ]
    assert json.loads(csvd("status", "--json").out) == answer()


def test_what_a_node_can_not_serve_is_told(daemon: FakeDaemon, csvd: Shell) -> None:
    told = answer()
    told["members"]["node2"]["facts"]["troubles"] = {"iqn.x LUN 1": "/srv/a.img: is not there"}
    daemon.answers["GET /v1/status?detail=members"] = (200, told)
    assert "node2 can not serve iqn.x LUN 1: /srv/a.img: is not there\n" in csvd("status").out


def test_the_workers_of_nodes_are_a_table(daemon: FakeDaemon, csvd: Shell) -> None:
    told = answer()
    told["members"]["node2"]["facts"]["workers"] = [
        {
            "worker": 1,
            "process_id": 812,
            "state": "up",
            "sessions": 3,
            "restarts": 1,
            "resident_bytes": 64 << 20,
            "targets": ["iqn.a", "iqn.b"],
        },
        {
            "worker": 2,
            "process_id": None,
            "state": "down",
            "sessions": 0,
            "restarts": 9,
            "resident_bytes": 0,
            "targets": [],
        },
    ]
    daemon.answers["GET /v1/status?detail=members"] = (200, told)
    assert csvd("status").out.splitlines()[8:11] == [
        "NODE   WORKER  PROCESS  STATE  SESSIONS  RESTARTS  MEMORY    TARGETS",
        "node2       1      812  up            3         1  64.0 MiB  iqn.a, iqn.b",
        "node2       2        -  down          0         9  -         -",
    ]


def test_no_coordinator_no_guests_and_a_failed_node_are_told(daemon: FakeDaemon, csvd: Shell) -> None:
    told = answer(coordinator=None, guests=[], failure="the journal is damaged")
    daemon.answers["GET /v1/status?detail=members"] = (200, told)
    out = csvd("status").out.splitlines()
    assert out[0] == "node node1: no coordinator, term 9, 2 of 3 members here"
    assert out[1] == "THIS NODE TAKES NO PART IN THE CLUSTER: the journal is damaged"
    assert out[-1] == "no guests"


def test_watching_shows_it_again_until_it_fails(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/status?detail=members"] = [(200, answer()), (200, answer()), (503, error("gone"))]
    outcome = csvd("status", "--watch")
    assert outcome.status == 1
    assert outcome.out.count("node node1:") == 2
    assert outcome.err == "csvd: gone\n"


# session, event


def happened(*numbers: int) -> dict[str, Any]:
    events = [{"number": n, "time_s": 0, "kind": "login", "text": f"text {n}", "subject": ""} for n in numbers]
    return {"events": events, "last": numbers[-1] if numbers else 2, "lost": 0, "began_s": 0}


def test_events_are_asked_for_until_there_are_no_more(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/events?after=0"] = (200, happened(1))
    daemon.answers["GET /v1/events?after=1"] = (200, happened(2))
    daemon.answers["GET /v1/events?after=2"] = (200, happened())
    lines = csvd("event", "ls").out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert lines[1].endswith("login      text 2")
    assert [one["number"] for one in json.loads(csvd("event", "ls", "--json").out)["events"]] == [1, 2]


def test_following_goes_on_after_the_last_event(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/events?after=1"] = [(200, happened(2)), (503, error("gone"))]
    daemon.answers["GET /v1/events?after=2"] = [(200, happened()), (200, happened(3)), (503, error("gone"))]
    daemon.answers["GET /v1/events?after=3"] = [(200, happened()), (503, error("gone"))]
    outcome = csvd("event", "ls", "--after", "1", "--follow", "--json")
    assert outcome.status == 1
    assert [json.loads(line)["number"] for line in outcome.out.splitlines()] == [2, 3]


def test_a_table_of_nothing_is_its_header() -> None:
    assert table(("A", "LONG"), []) == "A  LONG"

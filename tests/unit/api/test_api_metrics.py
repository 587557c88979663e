"""Metrics: the text format 0.0.4, by a reader that takes nothing that the format does not allow."""

from __future__ import annotations

import re
from typing import Any

from csvd.api import metrics
from tests.unit.api.small_cluster import SmallCluster

_HELP = re.compile(r"# HELP ([a-z_]+) \S.*")
_TYPE = re.compile(r"# TYPE ([a-z_]+) (counter|gauge|histogram)")
_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (-?[0-9.e+-]+)')
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Samples = dict[str, list[tuple[dict[str, str], float]]]


def parse(text: str) -> Samples:
    """The samples by name; fails at whatever the format does not allow."""
    samples: Samples = {}
    kind = family = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if found := _HELP.fullmatch(line):
            family = found[1]
            assert family not in samples
        elif found := _TYPE.fullmatch(line):
            assert found[1] == family
            kind = found[2]
        else:
            found = _SAMPLE.fullmatch(line)
            assert found is not None, line
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert found[1] in [family + suffix for suffix in suffixes]
            labels = dict(_LABEL.findall(found[2] or ""))
            samples.setdefault(found[1], []).append((labels, float(found[3])))
    return samples


COUNTED = {"count": 3, "bytes_in": 8192, "bytes_out": 0, "seconds": 1.25, "errors": {}, "buckets": [1, 1, 1]}
FACTS: dict[str, Any] = {
    "node": "node1",
    "version": "1.2.3",
    "uptime_s": 7.5,
    "sessions": [{"target": "t", "initiator": 'i"\\\n', "tsih": 4, "statistics": COUNTED}],
    "units": [{"target": "t", "number": 0, "size_bytes": 1 << 40}],
    "statistics": {
        "bounds_s": [0.5, 1.0],
        "units": [{"target": "t", "lun": 0, **COUNTED}],
        "commands": [
            {"target": "t", "lun": 0, "command": "READ(10)", **COUNTED, "errors": {"medium_error": 2}},
            {"target": "t", "lun": None, "command": "other", **COUNTED},
        ],
        "sessions": [],
    },
    "events": {"login": 2},
    "cluster": {"members": [{"node": "node1", "link": "self"}], "is_coordinator": True, "epoch": 3},
    "process": {"resident_bytes": 4096, "open_files": 9},
    "workers": [
        {"worker": 1, "state": "up", "restarts": 0, "sessions": 3, "resident_bytes": 8192, "open_files": 7},
        {"worker": 2, "state": "down", "restarts": 4, "sessions": 0, "resident_bytes": 0, "open_files": 0},
    ],
}


def test_every_fact_is_a_sample() -> None:
    samples = parse(metrics.text_of(FACTS))
    assert samples["csvd_info"] == [({"node": "node1", "version": "1.2.3"}, 1)]
    assert samples["csvd_unit_size_bytes"] == [({"target": "t", "lun": "0"}, 1 << 40)]
    assert samples["csvd_sessions"] == [({"target": "t"}, 1)]
    assert samples["csvd_events_total"] == [({"kind": "login"}, 2)]
    assert samples["csvd_command_errors_total"] == [
        ({"target": "t", "lun": "0", "command": "READ(10)", "error": "medium_error"}, 2)
    ]
    assert samples["csvd_commands_total"][1][0]["lun"] == "none"
    assert samples["csvd_cluster_coordinator"] == [({}, 1)]
    assert samples["csvd_process_open_files"] == [({}, 9)]
    assert samples["csvd_worker_up"] == [({"worker": "1"}, 1), ({"worker": "2"}, 0)]
    assert samples["csvd_worker_restarts_total"] == [({"worker": "1"}, 0), ({"worker": "2"}, 4)]
    assert samples["csvd_worker_resident_bytes"][0][1] == 8192


def test_without_workers_there_are_no_samples_of_them() -> None:
    assert not [name for name in parse(metrics.text_of({**FACTS, "workers": []})) if name.startswith("csvd_worker_")]


def test_the_buckets_of_a_histogram_add_up_to_its_count() -> None:
    samples = parse(metrics.text_of(FACTS))
    name = "csvd_command_duration_seconds"
    assert [(labels["le"], value) for labels, value in samples[f"{name}_bucket"]] == [
        ("0.5", 1),
        ("1.0", 2),
        ("+Inf", 3),
    ]
    assert samples[f"{name}_count"] == [({"target": "t", "lun": "0"}, 3)]
    assert samples[f"{name}_sum"] == [({"target": "t", "lun": "0"}, 1.25)]


def test_what_a_peer_names_itself_can_not_break_the_format() -> None:
    samples = parse(metrics.text_of(FACTS))
    ((labels, _),) = samples["csvd_session_commands_total"]
    assert labels["initiator"] == 'i\\"\\\\\\n'


def test_a_node_answers_them_as_text() -> None:
    answer = SmallCluster()[1].ask("GET", "/metrics")
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert answer.text is not None
    assert parse(answer.text)["csvd_info"][0][0]["node"] == "node1"

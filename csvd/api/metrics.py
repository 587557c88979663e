"""Metrics in Prometheus' text format 0.0.4, made of what the node says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]
Labels = Mapping[str, object]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NO_UNIT: Final = "none"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def text_of(facts: Json) -> str:
    """The page.

    Args:
        facts: ``node``, ``version``, ``uptime_s``; ``sessions`` and ``units`` as the control API lists them;
            ``statistics`` as GET /v1/statistics answers; ``events``: their number by kind; ``cluster``: its status;
            ``process``: resident bytes and open files; ``workers``: as GET /v1/node has them.
    """
    return "".join(f"{line}\n" for line in _lines(facts))


def _lines(facts: Json) -> Iterator[str]:
    yield from _family(
        "info", "gauge", "Which csvd this is.", [({"node": facts["node"], "version": facts["version"]}, 1)]
    )
    yield from _family("uptime_seconds", "gauge", "Since the daemon was started.", [({}, facts["uptime_s"])])
    yield from _process(facts["process"])
    yield from _workers(facts["workers"])
    yield from _cluster(facts["cluster"])
    counts = sorted(facts["events"].items())
    yield from _family("events_total", "counter", "What happened, by kind.", [({"kind": k}, n) for k, n in counts])
    yield from _sessions(facts["sessions"])
    yield from _family(
        "unit_size_bytes",
        "gauge",
        "The size of a logical unit.",
        [({"target": one["target"], "lun": one["number"]}, one["size_bytes"]) for one in facts["units"]],
    )
    yield from _commands(facts["statistics"])


def _process(process: Json) -> Iterator[str]:
    resident, files = process["resident_bytes"], process["open_files"]
    yield from _family("process_resident_bytes", "gauge", "The memory of the daemon.", [({}, resident)])
    yield from _family("process_open_files", "gauge", "The file descriptors of the daemon.", [({}, files)])


def _workers(workers: Sequence[Json]) -> Iterator[str]:
    if not workers:
        return
    for name, kind, help_text, value in (
        ("up", "gauge", "Whether a worker serves.", lambda one: int(one["state"] == "up")),
        ("restarts_total", "counter", "How often a worker was started again.", lambda one: one["restarts"]),
        ("sessions", "gauge", "iSCSI sessions of a worker.", lambda one: one["sessions"]),
        ("resident_bytes", "gauge", "The memory of a worker.", lambda one: one["resident_bytes"]),
        ("open_files", "gauge", "The file descriptors of a worker.", lambda one: one["open_files"]),
    ):
        samples = [({"worker": one["worker"]}, value(one)) for one in workers]
        yield from _family(f"worker_{name}", kind, help_text, samples)


def _cluster(status: Json) -> Iterator[str]:
    up = [({"member": one["node"]}, int(one["link"] in ("self", "up"))) for one in status["members"]]
    yield from _family("cluster_member_up", "gauge", "Whether there is a link to a member.", up)
    yield from _family(
        "cluster_coordinator", "gauge", "Whether this node is the coordinator.", [({}, int(status["is_coordinator"]))]
    )
    yield from _family("cluster_epoch", "gauge", "The coordinator's term of office.", [({}, status["epoch"] or 0)])


def _sessions(sessions: Sequence[Json]) -> Iterator[str]:
    by_target: dict[str, int] = {}
    for one in sessions:
        by_target[one["target"]] = by_target.get(one["target"], 0) + 1
    yield from _family(
        "sessions", "gauge", "iSCSI sessions.", [({"target": name}, count) for name, count in by_target.items()]
    )
    labels = [{"target": one["target"], "initiator": one["initiator"], "tsih": one["tsih"]} for one in sessions]
    counted = [one["statistics"] for one in sessions]
    yield from _family(
        "session_commands_total",
        "counter",
        "Commands of a session.",
        [(label, one["count"]) for label, one in zip(labels, counted, strict=True)],
    )
    yield from _family("session_bytes_total", "counter", "Data of a session.", _both_ways(labels, counted))


def _both_ways(labels: Iterable[Labels], counted: Iterable[Json]) -> Iterator[tuple[Labels, float]]:
    for label, one in zip(labels, counted, strict=True):
        yield {**label, "direction": "in"}, one["bytes_in"]
        yield {**label, "direction": "out"}, one["bytes_out"]


def _commands(statistics: Json) -> Iterator[str]:
    commands = statistics["commands"]
    labels = [_unit(one) | {"command": one["command"]} for one in commands]
    yield from _family(
        "commands_total",
        "counter",
        "Commands that are done, by their names in the SCSI standards.",
        [(label, one["count"]) for label, one in zip(labels, commands, strict=True)],
    )
    yield from _family(
        "command_errors_total",
        "counter",
        "Commands that did not end GOOD, by sense key or status.",
        [
            ({**label, "error": error}, count)
            for label, one in zip(labels, commands, strict=True)
            for error, count in sorted(one["errors"].items())
        ],
    )
    units = statistics["units"]
    yield from _family(
        "command_bytes_total", "counter", "Data of commands.", _both_ways([_unit(one) for one in units], units)
    )
    yield from _histogram(statistics["bounds_s"], units)


def _unit(one: Json) -> dict[str, object]:
    return {"target": one["target"], "lun": NO_UNIT if one["lun"] is None else one["lun"]}


def _histogram(bounds_s: Sequence[float], units: Iterable[Json]) -> Iterator[str]:
    name = "csvd_command_duration_seconds"
    yield f"# HELP {name} From when a command was received to its answer."
    yield f"# TYPE {name} histogram"
    for one in units:
        labels, below = _unit(one), 0
        for bound_s, count in zip(bounds_s, one["buckets"], strict=False):
            below += count
            yield _sample(f"{name}_bucket", {**labels, "le": repr(float(bound_s))}, below)
        yield _sample(f"{name}_bucket", {**labels, "le": "+Inf"}, one["count"])
        yield _sample(f"{name}_sum", labels, one["seconds"])
        yield _sample(f"{name}_count", labels, one["count"])


def _family(name: str, kind: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> Iterator[str]:
    yield f"# HELP csvd_{name} {help_text}"
    yield f"# TYPE csvd_{name} {kind}"
    for labels, value in samples:
        yield _sample(f"csvd_{name}", labels, value)


def _sample(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{str(text).translate(_ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"

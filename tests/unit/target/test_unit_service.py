"""The service of logical units at the coordinator: what it is asked that makes no sense, and what it forgets."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from csvd.cluster.errors import RemoteError
from csvd.scsi.reservation_codes import encode_action
from csvd.scsi.reservations import Register, Registrant
from csvd.target.unit_service import MOST_HOLD_PUSHES, MOST_UNITS, UnitService
from tests.unit.cluster.loopback import Loopback

NAA = "6" + "0" * 31
METHODS = (
    "attach",
    "detach",
    "act",
    "read",
    "ports",
    "reserve",
    "release",
    "end legacy",
    "mode",
    "keep",
    "reset",
    "clear",
    "hold",
    "unhold",
    "nothing",
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(NAA),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
params = st.dictionaries(
    st.sampled_from(
        ("naa", "power", "action", "aborts", "who", "by", "values", "saves", "name", "names", "value", "hold", "ranges")
    ),
    json,
)


class Rig:
    """Three nodes of which only the service is there."""

    def __init__(self) -> None:
        self.loopback = Loopback()
        self.services = {}
        for name in ("n1", "n2", "n3"):
            service = self.services[name] = UnitService()
            self.loopback.coordination(name).add_service(lambda disk, is_system, service=service: service)
        self.result(self.loopback.start())

    def result(self, work: Coroutine[Any, Any, Any]) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(results.append)
        assert results, "it waits"
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def ask(self, node: str, method: str, **parameters: Any) -> Any:
        return self.result(self.loopback.session(node).ask("units", method, parameters, timeout_s=0))


@given(st.lists(st.tuples(st.sampled_from(METHODS), params), max_size=8))
def test_nonsense_is_refused_and_harms_nobody(asks: list[tuple[str, dict[str, Any]]]) -> None:
    rig = Rig()
    rig.ask("n1", "attach", naa=NAA, power=None)
    for method, parameters in asks:
        done = Deferred.fromCoroutine(rig.loopback.session("n2").ask("units", method, parameters, timeout_s=0))
        refused: list[Any] = []
        done.addErrback(refused.append)
        for failure in refused:
            assert isinstance(failure.value, RemoteError), failure
            assert failure.value.kind == "UnitsRefused", failure
    assert rig.ask("n1", "attach", naa=NAA, power=None)["record"]["version"] >= 1
    rig.result(rig.loopback.move("n3"))


def test_records_of_what_nobody_exports_any_more_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.target.unit_service.MOST_UNITS", 4)
    assert MOST_UNITS > 4
    rig = Rig()
    naas = [f"6{number:031x}" for number in range(6)]
    for naa in naas[:4]:
        rig.ask("n1", "attach", naa=naa, power=None)
    who = ["i", "t", 1]
    rig.ask("n1", "keep", naa=naas[0], name="text", value="x", by=who)
    with pytest.raises(RemoteError, match="4 logical units"):
        rig.ask("n1", "attach", naa=naas[4], power=None)
    for naa in naas[:2]:
        rig.ask("n1", "detach", naa=naa)
    rig.ask("n1", "attach", naa=naas[4], power=None)
    assert f"units/{naas[0]}" in rig.loopback.records, "it keeps something"
    assert f"units/{naas[1]}" not in rig.loopback.records
    rig.ask("n1", "attach", naa=naas[5], power=None)
    assert f"units/{naas[0]}" not in rig.loopback.records


def test_a_unit_that_no_node_exported_is_switched_on_by_the_first_one_alone() -> None:
    rig = Rig()
    powers = [rig.ask(node, "attach", naa=NAA, power=None)["record"]["power"] for node in ("n1", "n2", "n3")]
    assert powers == [1, 1, 1]
    for node in ("n1", "n2", "n3"):
        rig.ask(node, "detach", naa=NAA)
    assert rig.ask("n2", "attach", naa=NAA, power=1)["record"]["power"] == 1, "it was on at n2 all the time"
    assert rig.ask("n3", "attach", naa=NAA, power=None)["record"]["power"] == 1
    rig.ask("n2", "detach", naa=NAA)
    rig.ask("n3", "detach", naa=NAA)
    assert rig.ask("n1", "attach", naa=NAA, power=None)["record"]["power"] == 2


def test_a_node_that_asks_twice_does_not_switch_on_what_it_has_on() -> None:
    rig = Rig()
    rig.ask("n1", "attach", naa=NAA, power=None)
    register = encode_action(Register(Registrant("i", "t", 1), 0, 0xA))
    rig.ask("n1", "act", naa=NAA, action=register, aborts=False)
    again = rig.ask("n1", "attach", naa=NAA, power=None)["record"]
    assert again["power"] == 1
    assert again["reservations"]["registrations"], "what was acknowledged is there: nobody had switched it off"


def test_the_end_of_a_hold_is_told_past_others_that_nodes_are_slow_to_acknowledge() -> None:
    rig = Rig()
    rig.ask("n1", "attach", naa=NAA, power=None)
    told: list[tuple[str, str]] = []
    slow: list[Deferred[None]] = []

    async def pushed(method: str, parameters: Any) -> dict[str, Any]:
        if method in ("hold", "unhold"):
            told.append((method, parameters["hold"]))
        if method == "hold" and parameters["hold"] != "first":
            waiting: Deferred[None] = Deferred()
            slow.append(waiting)
            await waiting
        return {}

    rig.loopback.session("n2").on_pushed("units", pushed)
    assert rig.ask("n1", "hold", hold="first", ranges=[[NAA, 0, 512]]) == {"granted": True}
    count = MOST_HOLD_PUSHES + 8
    asking = []
    for number in range(count):
        ask = rig.loopback.session("n1").ask(
            "units", "hold", {"hold": f"{number}", "ranges": [[NAA, 512 * (number + 1), 512]]}, timeout_s=0
        )
        asking.append(Deferred.fromCoroutine(ask))
    assert len(slow) == MOST_HOLD_PUSHES
    rig.ask("n1", "unhold", hold="first")
    assert told[-1] == ("unhold", "first")
    while slow:
        slow.pop(0).callback(None)
    assert [name for method, name in told if method == "hold"] == ["first", *map(str, range(count))], "in their order"
    assert all(each.called for each in asking)

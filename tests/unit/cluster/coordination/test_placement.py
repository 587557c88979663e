"""Which node should coordinate which disk."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csvd.cluster.coordination.placement import DiskView, NodeView, place


def node(*attached: str, up_s: float = 100, **more: Any) -> NodeView:
    return NodeView(is_there=True, up_s=up_s, attached=attached or ("d1", "d2", "d3", "d4"), **more)


def moved(disks: dict[str, DiskView], nodes: dict[str, NodeView]) -> list[tuple[str, str]]:
    return [(move.disk, move.node) for move in place(disks, nodes, settle_s=15)]


def test_a_new_disk_goes_to_the_node_with_the_least_to_do() -> None:
    disks = {"d1": DiskView("a", 1), "d2": DiskView("", 0)}
    assert moved(disks, {"a": node(acting={"d1": 1}), "b": node()}) == [("d2", "b")]


def test_the_disks_of_a_dead_node_are_spread_over_the_others() -> None:
    disks = {name: DiskView("a", 1) for name in ("d1", "d2", "d3", "d4")}
    moves = moved(disks, {"a": NodeView(is_there=False), "b": node(), "c": node()})
    assert Counter(node for _, node in moves) == {"b": 2, "c": 2}


def test_a_coordinator_at_work_stays() -> None:
    assert moved({"d1": DiskView("a", 1)}, {"a": node(acting={"d1": 1}), "b": node()}) == []


def test_one_that_the_register_names_but_does_not_act_is_replaced() -> None:
    assert moved({"d1": DiskView("a", 2)}, {"a": node(acting={"d1": 1}), "b": node()}) == [("d1", "a")]


def test_neither_a_witness_nor_one_without_the_disk_nor_one_that_drains_is_chosen() -> None:
    nodes = {
        "w": node(is_eligible=False),
        "x": node("d2"),
        "z": node(is_draining=True),
        "y": node(acting={"d2": 1, "d3": 1}),
    }
    disks = {"d1": DiskView("", 0), "d2": DiskView("y", 1), "d3": DiskView("y", 1)}
    assert moved(disks, nodes) == [("d1", "y")]


def test_a_draining_node_gives_away_and_keeps_what_nobody_else_can_have() -> None:
    disks = {"d1": DiskView("a", 1), "d2": DiskView("a", 1)}
    nodes = {"a": node(acting={"d1": 1, "d2": 1}, is_draining=True), "b": node("d1")}
    assert moved(disks, nodes) == [("d1", "b")]


def test_a_disk_without_any_other_node_goes_to_a_draining_one() -> None:
    assert moved({"d1": DiskView("", 0)}, {"a": node(is_draining=True)}) == [("d1", "a")]


def test_a_node_that_has_been_up_for_a_while_gets_its_share_one_disk_at_a_time() -> None:
    disks = {name: DiskView("a", 1) for name in ("d1", "d2", "d3", "d4")}
    busy = node(acting=dict.fromkeys(disks, 1))
    assert moved(disks, {"a": busy, "b": node(up_s=14)}) == []
    assert moved(disks, {"a": busy, "b": node(up_s=16)}) == [("d1", "b")]


def test_a_share_that_differs_by_one_is_even() -> None:
    disks = {"d1": DiskView("a", 1), "d2": DiskView("a", 1), "d3": DiskView("b", 1)}
    assert moved(disks, {"a": node(acting={"d1": 1, "d2": 1}), "b": node(acting={"d3": 1})}) == []


def test_what_a_person_has_chosen_is_not_moved_for_balance() -> None:
    disks = {"d1": DiskView("a", 1, is_pinned=True), "d2": DiskView("a", 1, is_pinned=True)}
    assert moved(disks, {"a": node(acting={"d1": 1, "d2": 1}), "b": node()}) == []


def test_one_that_has_just_failed_is_chosen_only_where_there_is_no_other() -> None:
    disks = {"d1": DiskView("", 0)}
    assert moved(disks, {"a": node(troubled=("d1",)), "b": node(acting={"d2": 1})}) == [("d1", "b")]
    assert moved(disks, {"a": node(troubled=("d1",))}) == [("d1", "a")]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_balancing_ends_and_is_even(owners: list[str]) -> None:
    disks = {f"d{number}": DiskView(owner, 1) for number, owner in enumerate(owners)}
    for _ in range(20):
        acting = {
            name: {disk: view.epoch for disk, view in disks.items() if view.coordinator == name} for name in "abc"
        }
        nodes = {name: node(*disks, acting=acting[name]) for name in "abc"}
        moves = place(disks, nodes, settle_s=15)
        if not moves:
            break
        for move in moves:
            disks[move.disk] = DiskView(move.node, move.expected_epoch + 1)
    counts = [sum(disk.coordinator == name for disk in disks.values()) for name in "abc"]
    assert max(counts) - min(counts) <= 1

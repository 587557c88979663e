"""The simulated wires: a path is whole again when the last of its cuts is mended, and not before."""

from __future__ import annotations

from typing import Any

from tests.sim.wires import Connection, Wires
from tests.sim.world import Process, World

THERE = ("n1", "n2")
BACK = ("n2", "n1")


class End:
    """An end of a connection that notes what comes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.came: list[Any] = []

    def called(self, connection: Connection, item: Any) -> None:
        connection.accept(self)
        self.came.append(item)

    def arrived(self, connection: Connection, item: Any) -> None:
        self.came.append(item)

    def broken(self, connection: Connection, reason: str) -> None:
        self.came.append(reason)


def connected() -> tuple[World, Wires, Connection, End]:
    """A connection from n1 to n2, and what is at its end."""
    world = World(1)
    wires = Wires(world)
    dialer, listener = (End(Process(world, name, 1.0, 0.0)) for name in THERE)
    wires.listeners["n2"] = listener
    return world, wires, wires.connect(dialer.process, dialer, "n2"), listener


def come(world: World, end: End) -> list[Any]:
    """All that has come to an end when everything on its way has arrived."""
    world.run_until(world.now_s + 1.0)
    return end.came


def test_what_is_sent_into_a_cut_path_comes_when_it_is_mended() -> None:
    world, wires, connection, end = connected()
    wires.cut([THERE])
    connection.send("n1", "a")
    assert come(world, end) == []
    wires.mend([THERE])
    assert come(world, end) == ["a"]


def test_a_path_that_was_cut_twice_is_whole_when_both_cuts_are_mended() -> None:
    world, wires, connection, end = connected()
    wires.cut([THERE, BACK])
    wires.cut([THERE])
    connection.send("n1", "a")
    wires.mend([THERE, BACK])
    assert wires.is_cut(THERE)
    assert not wires.is_cut(BACK)
    assert come(world, end) == []
    wires.mend([THERE])
    assert come(world, end) == ["a"]


def test_all_cuts_are_mended_at_once_and_a_late_mend_of_one_does_no_harm() -> None:
    world, wires, connection, end = connected()
    wires.cut([THERE])
    wires.cut([THERE])
    connection.send("n1", "a")
    wires.mend()
    assert come(world, end) == ["a"]
    wires.mend([THERE])
    wires.cut([THERE])
    connection.send("n1", "b")
    assert come(world, end) == ["a"]
    wires.mend([THERE])
    assert come(world, end) == ["a", "b"]

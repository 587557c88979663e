"""Whatever hosts ask through three nodes, and whatever becomes of the nodes: the answers are those of one node.

The model is the target device of one node with three ports, whose reservations are its own.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from csvd.iscsi.codes import TaskManagementFunction
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.portals import portal_group_tag
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from initiator.engine.requests import Command
from tests.pair.clustered import Cluster, Host, answered
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES, TARGET

KEYS = (0, 0xA, 0xB, 0xC)
TYPES = (1, 3, 5, 6, 7, 8)
NODES = ("n1", "n2", "n3")


class _Port:
    """A port of the one node, in the place of a `Node`."""

    def __init__(self, model: Model, number: int) -> None:
        self.name = "the one"
        self.entity = model.entity
        self.executor: Any = model.executor
        self.tag = portal_group_tag(number)


class Model:
    """One node with three ports."""

    def __init__(self, room: Cluster) -> None:
        unit = LogicalUnit(
            0, MemoryDisk(DISK_BYTES), BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity(serial="cluster")
        )
        unit.keeps = True
        device = TargetDevice({0: unit}, name=TARGET)
        device.set_ports(portal_group_tag(number) for number in (1, 2, 3))
        target = TargetNode(TARGET, device)
        self.entity = NetworkEntity([target], entropy=room.chance.randbytes)

        def abort(_unit: LogicalUnit, nexuses: Any, done: Any) -> None:
            target.abort_tasks({0, 0x4000 << 48}, nexuses, done)

        class Keeper:
            """Keeps nothing: the model has no power cut."""

            def keep(self, _unit: Any, _name: str, _value: Any) -> Any:
                return succeed(None)

        self.executor: Any = Executor(device, StepRunner(room.clock, Keeper(), abort))
        self.ports: list[Any] = [_Port(self, number) for number in (1, 2, 3)]


class Both:
    """The three nodes and the model, with a host at each node."""

    def __init__(self) -> None:
        self.room = Cluster()
        self.model = Model(self.room)
        self.pairs: dict[int, tuple[Host, Host]] = {}
        for number in (1, 2, 3):
            self.log_in(number)

    def log_in(self, number: int) -> None:
        name = f"h{number}"
        real = self.room.host(f"n{number}", name, number)
        expected = Host(self.room, self.model.ports[number - 1], name, number)
        self.room.hosts.append(expected)
        self.room.run()
        expected.ready()
        self.pairs[number] = real, expected

    def die(self, number: int) -> None:
        real, expected = self.pairs.pop(number)
        self.room.hosts.remove(real)
        self.room.hosts.remove(expected)
        expected.engine.lost()
        self.room.does(self.room.loopback.kill(f"n{number}"))

    def come_back(self, number: int) -> None:
        self.room.replace(f"n{number}")
        _, expected = self.pairs.get(number, (None, None))
        assert expected is None
        self.log_in(number)

    def compare(self, number: int, ask: Any) -> None:
        """The answers to one question."""
        real, expected = (ask(host) for host in self.pairs[number])
        assert told(real) == told(expected)


def told(command: Command) -> tuple[bool, int, bytes, bytes]:
    """All that a host learns."""
    data = bytes(command.data_in[: command.received]) if command.data_in is not None else b""
    return answered(command), command.status, bytes(command.sense), data


def persistent_reserve_in(action: int) -> bytes:
    return bytes((0x5E, action)) + bytes(5) + (0x2000).to_bytes(2) + b"\0"


hosts = st.sampled_from((1, 2, 3))
outs = st.tuples(
    st.just("out"),
    hosts,
    st.sampled_from((0, 1, 2, 3, 4, 5, 6)),
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.sampled_from(TYPES),
    st.sampled_from((0, 0, 0, 1, 4)),
)
others = st.tuples(
    st.sampled_from(("keys", "reservation", "status", "write", "read", "reserve", "release", "ready", "reset")), hosts
)
faults = st.tuples(st.sampled_from(("die", "back", "move", "away")), hosts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(outs, outs, outs, others, others, faults), max_size=40))
def test_three_nodes_answer_as_one(steps: list[tuple[Any, ...]]) -> None:
    both = Both()
    for step in steps:
        take(both, *step)
    for number in both.pairs:
        for action in (0, 1, 3):
            both.compare(number, lambda host, action=action: host.begin(persistent_reserve_in(action), data_in=0x2000))
        both.compare(number, lambda host: host.write(0, 1))


def take(both: Both, kind: str, number: int, *parameters: Any) -> None:
    is_here = number in both.pairs
    match kind:
        case "die" if is_here and len(both.pairs) > 1:
            both.die(number)
        case "back" if not is_here:
            both.come_back(number)
        case "move" if is_here:
            both.room.does(both.room.loopback.move(f"n{number}"))
        case "away" if is_here and len(both.pairs) > 1 and both.room.loopback.office is not None:
            # What RESERVE(6) of a nexus holds ends with its node, as with the loss of the nexus.
            held = both.room.nodes[f"n{number}"].device.servers[0].reservations.legacy_holder
            if both.room.loopback.office.node != f"n{number}" and held is None:
                both.room.does(both.room.loopback.lapse(f"n{number}"))
                both.room.does(both.room.loopback.come_back(f"n{number}"))
        case "out" if is_here:
            action, key, new_key, reservation_type, flags = parameters
            flags = flags if action in (0, 6) else 0
            both.compare(number, lambda host: host.out(action, key, new_key, reservation_type, flags))
        case "keys" | "reservation" | "status" if is_here:
            cdb = persistent_reserve_in({"keys": 0, "reservation": 1, "status": 3}[kind])
            both.compare(number, lambda host: host.begin(cdb, data_in=0x2000))
        case "write" if is_here:
            both.compare(number, lambda host: host.write(0, 1))
        case "read" if is_here:
            both.compare(number, lambda host: host.read(0))
        case "reserve" if is_here:
            both.compare(number, lambda host: host.begin(bytes((0x16, 0, 0, 0, 0, 0))))
        case "release" if is_here:
            both.compare(number, lambda host: host.begin(bytes((0x17, 0, 0, 0, 0, 0))))
        case "reset" if is_here:
            for host in both.pairs[number]:
                host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
        case "ready" if is_here:
            real, expected = both.pairs[number]
            assert real.ready() == expected.ready()

"""Random histories of several nexuses at two target ports: what is always so of reservations (SPC-4 5.13)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Procedure
from csvd.scsi.reservation_codes import decode_state, encode_state
from csvd.scsi.reservations import TYPES
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.transport_id import encode_transport_id, parse_transport_ids
from tests.unit.scsi.application_client import a_unit
from tests.unit.scsi.reserving_host import CONFLICT, GOOD, Host, a_target
from tests.unit.scsi.store import Store

HOSTS = st.integers(0, 3)
KEYS = st.sampled_from([0, 1, 2, 3])
KINDS = st.sampled_from(sorted(TYPES))
ALL_REGISTRANTS = {code for code, row in TYPES.items() if row.all_registrants}
REGISTRANTS = {code for code, row in TYPES.items() if row.registrants}
EXCLUSIVE = {code for code, row in TYPES.items() if row.exclusive_access}


class Reservations(RuleBasedStateMachine):
    """Four nexuses, of three hosts at two target ports, that do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.target = a_target(a_unit(keeps=True), tags=(1, 2))
        self.hosts = [
            Host(self.target, "a"),
            Host(self.target, "a", tag=2),
            Host(self.target, "b"),
            Host(self.target, "c"),
        ]
        self.generation = 0
        self.legacy: Host | None = None

    def settle(self) -> None:
        for host in self.hosts:
            while host.client.run("03 00 00 00 12 00").data_in[2] & 0xF:
                pass

    @rule(host=HOSTS, key=KEYS, new=KEYS, aptpl=st.booleans(), all_ports=st.booleans(), ignore=st.booleans())
    def register(self, host: int, key: int, new: int, aptpl: bool, all_ports: bool, ignore: bool) -> None:
        action = 0x06 if ignore else 0x00
        self.hosts[host].register(key, new, aptpl=aptpl, all_ports=all_ports, action=action)

    @rule(host=HOSTS, others=st.lists(HOSTS, max_size=3), new=KEYS)
    def register_others(self, host: int, others: list[int], new: int) -> None:
        self.hosts[host].register(0, new, ports=[self.hosts[other].transport_id for other in others])

    @rule(host=HOSTS, key=KEYS, kind=KINDS)
    def reserve(self, host: int, key: int, kind: int) -> None:
        self.hosts[host].reserve(key, kind)

    @rule(host=HOSTS, key=KEYS, kind=KINDS)
    def release(self, host: int, key: int, kind: int) -> None:
        self.hosts[host].release(key, kind)

    @rule(host=HOSTS, key=KEYS)
    def clear(self, host: int, key: int) -> None:
        self.hosts[host].clear(key)

    @rule(host=HOSTS, key=KEYS, preempted=KEYS, kind=KINDS, abort=st.booleans())
    def preempt(self, host: int, key: int, preempted: int, kind: int, abort: bool) -> None:
        mine = self.hosts[host]
        was_reserved = self.settled_reservation()
        if mine.preempt(key, preempted, kind, abort=abort) == GOOD:
            own = self.target.nexuses[mine.nexus].registrant
            others = [k for who, k in self.target.servers[0].reservations.state.keys.items() if who != own]
            assert preempted not in others if preempted else not others
            assert preempted or was_reserved in ALL_REGISTRANTS

    @rule(host=HOSTS, to=HOSTS, key=KEYS, new=KEYS, port=st.integers(1, 3), unregister=st.booleans())
    def move(self, host: int, to: int, key: int, new: int, port: int, unregister: bool) -> None:
        self.hosts[host].move(key, new, self.hosts[to].transport_id, port=port, unregister=unregister)

    @rule(host=HOSTS)
    def reserve_6(self, host: int) -> None:
        if self.hosts[host].ask("16 00 00 00 00 00") == GOOD and not self.settled_registrations():
            self.legacy = self.hosts[host]

    @rule(host=HOSTS)
    def release_6(self, host: int) -> None:
        if self.hosts[host].ask("17 00 00 00 00 00") == GOOD and self.legacy is self.hosts[host]:
            self.legacy = None

    @rule(host=HOSTS)
    def lose_nexus(self, host: int) -> None:
        self.hosts[host].lose()
        self.hosts[host].log_in(self.target)
        if self.legacy is self.hosts[host]:
            self.legacy = None

    @rule(host=HOSTS)
    def reset(self, host: int) -> None:
        self.hosts[host].reset()
        self.legacy = None

    @rule()
    def power_cycle(self) -> None:
        before = self.target.servers[0].reservations.state
        self.target = a_target(a_unit(keeps=True, kept=dict(self.target.servers[0].unit.kept)), tags=(1, 2))
        for host in self.hosts:
            host.log_in(self.target)
        after = self.target.servers[0].reservations.state
        assert after.generation == 0
        if before.aptpl:
            assert (after.keys, after.type, after.holder) == (before.keys, before.type, before.holder)
        else:
            assert (dict(after.keys), after.type, after.holder) == ({}, None, None)
        self.generation, self.legacy = 0, None

    def settled_registrations(self) -> int:
        return len(self.target.servers[0].reservations.state.keys)

    def settled_reservation(self) -> int | None:
        kind = self.target.servers[0].reservations.state.type
        return None if kind is None else kind.code

    @invariant()
    def holders_are_registered_and_a_reservation_has_one_or_all(self) -> None:
        state = self.target.servers[0].reservations.state
        if state.type is None:
            assert state.holder is None
        elif state.type.all_registrants:
            assert state.keys
            assert state.holder is None
        else:
            assert state.holder in state.keys
        assert all(state.keys.values()), "key zero registers nobody"

    @invariant()
    def the_generation_only_grows(self) -> None:
        generation = self.target.servers[0].reservations.state.generation
        assert generation >= self.generation
        self.generation = generation

    @invariant()
    def what_is_kept_is_what_is_in_force(self) -> None:
        server = self.target.servers[0]
        state, kept = server.reservations.state, server.unit.kept.get("reservations")
        assert kept == (encode_state(state) if state.aptpl else None)
        if kept is not None:
            assert decode_state(kept).keys == state.keys

    @invariant()
    def everyone_may_do_what_the_tables_say(self) -> None:
        self.settle()
        state = self.target.servers[0].reservations.state
        kind = None if state.type is None else state.type.code
        for host in self.hosts:
            who = self.target.nexuses[host.nexus].registrant
            free = kind is None or state.holder == who or (kind in REGISTRANTS and who in state.keys)
            mine = self.legacy in (None, host)
            assert host.may_write() is (free and mine)
            assert host.may_read() is ((free or kind not in EXCLUSIVE) and mine)
            assert host.is_interrupted is not (free and mine)
            assert host.ask("12 00 00 00 24 00") == GOOD
            assert host.ask("00 00 00 00 00 00") == (GOOD if mine else CONFLICT)

    @invariant()
    def what_is_reported_is_what_is(self) -> None:
        if self.legacy is not None:
            return
        self.settle()
        host, state = self.hosts[0], self.target.servers[0].reservations.state
        assert host.keys() == list(state.keys.values())
        assert [(name, port) for _, _, _, port, name in host.full_status()] == [
            (who.initiator_port, who.relative_target_port) for who in state.keys
        ]
        holders = [holds for _, holds, _, _, _ in host.full_status()]
        kind = self.settled_reservation()
        assert sum(holders) == (0 if kind is None else len(holders) if kind in ALL_REGISTRANTS else 1)


Reservations.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestReservations = Reservations.TestCase

OUT_ACTIONS = st.integers(0, 31)


@given(action=OUT_ACTIONS, scope_and_type=st.integers(0, 255), data=st.binary(max_size=400), cut=st.integers(0, 3))
@settings(deadline=None)
def test_any_parameter_list_ends_in_a_status(action: int, scope_and_type: int, data: bytes, cut: int) -> None:
    target = a_target()
    host = Host(target)
    host.register(0, int.from_bytes(data[:8]) or 1)
    cdb = bytes((0x5F, action, scope_and_type, 0, 0)) + len(data).to_bytes(4) + b"\0"
    host.ask(cdb, data[: len(data) - cut])
    assert isinstance(host.keys(), list)


@given(
    names=st.lists(
        st.tuples(st.from_regex(r"iqn\.[a-z0-9.:-]{1,200}", fullmatch=True), st.integers(0, (1 << 48) - 1)), max_size=4
    )
)
def test_transportids_are_read_as_they_were_written(names: list[tuple[str, int]]) -> None:
    ports = [f"{name},i,0x{isid:012x}" for name, isid in names]
    found = parse_transport_ids(b"".join(encode_transport_id(port) for port in ports))
    assert [each.port for each in found] == ports


def test_every_command_of_a_stranger_under_exclusive_access_conflicts_or_is_allowed() -> None:
    for command in a_target().servers[0].commands:
        target: TargetDevice = a_target()
        holder, stranger = Host(target, "a"), Host(target, "b")
        assert holder.register(0, 1) == GOOD
        assert holder.reserve(1, 3) == GOOD
        cdb = bytes((command.operation_code, command.service_action or 0)) + bytes(14)
        outcome = stranger.client.send(cdb)
        reply = Store().run(outcome) if isinstance(outcome, Procedure) else outcome
        refused = isinstance(reply, Reply) and reply.status == Status.RESERVATION_CONFLICT
        passes = command.reservation_of(cdb).name in ("ALLOWED", "CONFLICTS_WITH_LEGACY")
        by_itself = command.operation_code in (0x16, 0x17, 0x5F)
        assert refused is not passes or by_itself, command.name

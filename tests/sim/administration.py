"""What people do meanwhile: nodes join, are evicted and drained; offices are moved, and nodes fenced by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.cluster.names import address_of_text
from csvd.cluster.register_members import Member
from csvd.errors import CsvdError
from tests.sim.hosts import fingerprint_of

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation

TOKEN_LIFE_S = 1_000_000
LAST_S = 11.0
"""How long before the end of the faults the last act is, so that all are decided by then."""
OFF_S = 3.0
"""How long a host must have been without power for a person to vouch that nothing of it is on its way any more."""


class Administration:
    """A person who does something at a random node, again and again."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._random = simulation.world.random("administration")
        self._tokens = 0
        self._acts: Mapping[str, Callable[[SimNode], Coroutine[Any, Any, None] | None]] = {
            "join": self._join_one,
            "evict": self._evict_one,
            "drain": self._drain_one,
            "move": self._move_one,
            "fence by hand": self._fence_one,
        }

    def start(self) -> None:
        """Begin."""
        self._next()

    def _next(self) -> None:
        self._world.later(self._random.expovariate(1 / self._simulation.plan.administration_pause_s), self._act)

    def _act(self) -> None:
        if self._world.now_s > self._simulation.plan.faults_s - LAST_S:
            return
        self._next()
        kind = self._random.choice(list(self._acts))
        nodes = [node for node in self._simulation.running_nodes() if node.name in node.register.members]
        act = self._acts[kind](self._random.choice(nodes)) if nodes else None
        if act is not None:
            self._simulation.counts[f"acts {kind}"] += 1
            self._simulation.spawn(self._quietly(act))

    async def _quietly(self, act: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(CommandRefused, OutcomeUnknown):
            await act

    # Members

    def _join_one(self, via: SimNode) -> Coroutine[Any, Any, None] | None:
        blank = [host.name for host in self._simulation.hosts.values() if self._simulation.may_join(host)]
        return self.join(via, self._random.choice(blank)) if blank else None

    async def join(self, via: SimNode, name: str) -> None:
        """What `csvd token create` and `csvd join` do, without the certificates."""
        host = self._simulation.hosts[name]
        self._tokens += 1
        token = fingerprint_of("token", self._tokens)
        is_witness = self._random.random() < 0.25
        at_s = int(self._world.now_s)
        self._world.note(via.name, f"ACT {name} is to join{' as a witness' * is_witness}")
        command: dict[str, Any] = {"op": "token_add", "id": token, "is_witness": is_witness, "at_s": at_s}
        await via.cluster.submit({**command, "expires_at_s": at_s + TOKEN_LIFE_S}, timeout_s=5.0)
        fingerprint = host.fingerprint
        command = {"op": "member_join", "token": token, "id": name, "address": f"{name}.sim:7000"}
        await via.cluster.submit({**command, "fingerprint": fingerprint, "at_s": at_s}, timeout_s=5.0)
        if host.fingerprint == fingerprint and self._simulation.may_join(host):
            members = via.register.members.values()
            host.contacts = {one.id: (address_of_text(one.address), one.fingerprints) for one in members}
            self._simulation.start_node(name)

    def _evict_one(self, via: SimNode) -> Coroutine[Any, Any, None] | None:
        able = [member.id for member in via.register.members.values() if not member.is_witness]
        gone = self._random.choice(sorted(via.register.members))
        if len([name for name in able if name != gone]) < 2:
            return None
        self._world.note(via.name, f"ACT {gone} is to be evicted")
        return self._submit(via, {"op": "member_remove", "id": gone})

    def _drain_one(self, via: SimNode) -> Coroutine[Any, Any, None] | None:
        member: Member = self._random.choice(list(via.register.members.values()))
        self._world.note(via.name, f"ACT {member.id} is {'not ' * member.is_draining}to be drained")
        return self._submit(via, {"op": "member_set", "id": member.id, "is_draining": not member.is_draining})

    async def _submit(self, via: SimNode, command: dict[str, Any]) -> None:
        await via.cluster.submit(command, timeout_s=5.0)

    # Offices

    def _move_one(self, via: SimNode) -> Coroutine[Any, Any, None] | None:
        disk = self._random.choice(list(self._simulation.plan.disks))
        return self._move(via, disk, self._random.choice(sorted(via.register.members)))

    async def _move(self, via: SimNode, disk: str, node: str) -> None:
        self._world.note(via.name, f"ACT the office of {disk} is to move to {node}")
        with contextlib.suppress(CsvdError):
            await via.coordination.move(disk, node)

    def _fence_one(self, via: SimNode) -> Coroutine[Any, Any, None] | None:
        disk = self._random.choice(list(self._simulation.plan.disks))
        return self._fence(via, disk, self._random.choice(sorted(via.register.members)))

    async def _fence(self, via: SimNode, disk: str, node: str) -> None:
        host = self._simulation.hosts[node]
        is_off = host.off_since_s is not None and self._world.now_s - host.off_since_s > OFF_S
        force = self._random.random() < 0.5
        self._world.note(via.name, f"ACT {node} is to be fenced on {disk}{', for it is off' * is_off}")
        with contextlib.suppress(CsvdError):
            await via.coordination.fence(disk, node, force=force, is_vouched_for=is_off)

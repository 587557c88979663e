"""Makes the pysyncobj of one node: an instance of its module, in which its collaborators are ours.

Each has an instance of the module `pysyncobj.syncobj` of its own, for what pysyncobj makes for itself (journal,
serializer, poller, clock, random numbers) it finds among the module's globals. Private names of pysyncobj 0.3.17 that
are relied upon are pinned by tests/unit/cluster/test_pysyncobj_names.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node

from csvd.cluster.raft_adapters import RaftTransport
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.voters import decode_change

CANDIDATE: Final = 1  # pysyncobj._RAFT_STATE.CANDIDATE
LEADER: Final = 2  # pysyncobj._RAFT_STATE.LEADER
FOLLOWER: Final = 0  # pysyncobj._RAFT_STATE.FOLLOWER
REGULAR: Final = 0  # pysyncobj._COMMAND_TYPE.REGULAR
_DAY_S: Final = 86_400


def make_raft(
    node: str,
    others: Sequence[Node],
    *,
    seams: Mapping[str, object],
    transport: RaftTransport,
    apply: Callable[[bytes, frozenset[str] | None], object],
    timeouts: Timeouts,
    state_changed: Callable[[int, int], None],
    maximum_log_entries: int,
) -> Any:
    """A pysyncobj.

    Args:
        node: the name of this node.
        others: whom it counts.
        seams: what takes the place of which global of its module.
        transport: carries its messages.
        apply: carries out a committed command, with the voters from it on where it changes them.
        timeouts: the times.
        state_changed: told of the old and the new role.
        maximum_log_entries: with more, the log is compacted.
    """
    module = load_syncobj(f"pysyncobj._csvd_{id(transport)}")
    for name, seam in seams.items():
        setattr(module, name, seam)

    class Raft(module.SyncObj):  # type: ignore[misc, name-defined]
        """pysyncobj's node, whose commands are not pickles."""

        def _SyncObj__doApplyCommand(self, command: bytes) -> object:  # noqa: N802
            change = decode_change(command)
            if change is not None:
                return apply(change[1], change[0])
            return apply(command[1:], None) if command[0] == REGULAR else None

        def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:  # noqa: N802
            return None

    conf = SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=False,
        commandsWaitLeader=False,
        appendEntriesBatchSizeBytes=2**24,
        commandsQueueSize=1,
        raftMinTimeout=timeouts.election_minimum_s,
        raftMaxTimeout=timeouts.election_maximum_s,
        appendEntriesPeriod=timeouts.heartbeat_s,
        leaderFallbackTimeout=timeouts.leader_fallback_s,
        connectionTimeout=60,
        logCompactionMinEntries=maximum_log_entries,
        logCompactionMinTime=_DAY_S,
        dynamicMembershipChange=False,
        useFork=False,
        onStateChanged=state_changed,
    )
    return Raft(Node(node), list(others), conf, transport=transport)


def load_syncobj(name: str) -> ModuleType:
    """An instance of the module `pysyncobj.syncobj` under another name, whose globals are its own."""
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    assert spec is not None
    assert spec.origin is not None
    own = importlib.util.spec_from_file_location(name, spec.origin)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module

"""The other nodes, as pysyncobj is to see them: who votes, who only learns, and who is linked.

pysyncobj counts majorities over `__otherNodes` and itself, and sends the log to these and to `__readonlyNodes`. Its own
changes of the membership are switched off (their guard against two at once does not work, a node can not remove itself,
and their entries are pickles); these sets are set here instead, whenever another set of voters is in the log.

A node that does not vote itself (it learns, or it leads and its own removal is on the way) must not be counted. It has
one more voter among the others, which is nobody and never answers: with n voters and that one, pysyncobj's
`1 + answers > (n + 2) / 2` is the same as `answers > n / 2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pysyncobj.node import Node

_NOBODY: Final = ""


class RaftPeers:
    """The sets of nodes of one pysyncobj.

    Args:
        node: the name of this node.
        seconds: the time of the loop.
    """

    def __init__(self, node: str, seconds: Callable[[], float]) -> None:
        self._node = node
        self._seconds = seconds
        self._nodes: dict[str, Node] = {}
        self._raft: Any = None
        self._voters: frozenset[str] = frozenset()
        self._nobody = Node(_NOBODY)
        self.linked: set[str] = set()

    def attach(self, raft: Any, voters: frozenset[str]) -> None:
        """Rule the sets of a pysyncobj from now on."""
        self._raft = raft
        self.set_voters(voters)

    def node(self, name: str) -> Node:
        """pysyncobj's object for a node."""
        if name not in self._nodes:
            self._nodes[name] = Node(name)
        return self._nodes[name]

    def others(self, voters: frozenset[str]) -> list[Node]:
        """Those that are to be counted beside this node."""
        found = [self.node(name) for name in sorted(voters) if name != self._node]
        return found if self._node in voters else [*found, self._nobody]

    def set_voters(self, voters: frozenset[str]) -> None:
        """Let these vote, and all others that are linked learn."""
        self._voters = voters
        self._update()

    def connected(self, peer: str) -> None:
        """There is a link to a peer."""
        self.linked.add(peer)
        self._update()

    def disconnected(self, peer: str) -> None:
        """There is no link to a peer any more."""
        self.linked.discard(peer)
        self._update()

    def is_known(self, peer: str) -> bool:
        """Whether pysyncobj counts a peer or sends it the log."""
        return self.node(peer) in self._raft._SyncObj__raftMatchIndex

    def match_index(self, peer: str) -> int:
        """Up to which entry a peer is known, by this leader, to have the log."""
        return int(self._raft._SyncObj__raftMatchIndex.get(self.node(peer), 0))

    def stood_still(self, seconds: float) -> None:
        """This process did nothing for so long: what the peers have answered meanwhile is still unread."""
        answered_s = self._raft._SyncObj__lastResponseTime
        for node in answered_s:
            answered_s[node] = min(answered_s[node] + seconds, self._seconds())

    def _update(self) -> None:
        raft = self._raft
        others = set(self.others(self._voters))
        learners = {self.node(peer) for peer in self.linked - self._voters}
        raft._SyncObj__otherNodes = others
        raft._SyncObj__readonlyNodes = learners
        next_index, match_index = raft._SyncObj__raftNextIndex, raft._SyncObj__raftMatchIndex
        answered_s = raft._SyncObj__lastResponseTime
        for node in others | learners:
            if node not in match_index:
                next_index[node] = raft._SyncObj__getCurrentLogIndex() + 1
                match_index[node] = 0
                answered_s[node] = self._seconds()
        answered_s[self._nobody] = float("-inf")
        for node in set(match_index) - others - learners:
            # Also what it had: under the same name another may come, which has nothing.
            for table in (next_index, match_index, answered_s):
                table.pop(node, None)

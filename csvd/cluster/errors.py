"""The errors of the cluster: what a member, a peer or a caller can be told."""

from __future__ import annotations

from csvd.errors import CsvdError


class ClusterError(CsvdError):
    """The cluster could not do what it was asked."""


class JournalError(ClusterError):
    """The journal of this node is damaged, belongs to another node, or could not be written."""


class AuthenticationError(ClusterError):
    """A peer did not prove that it is one to let in, or sent bytes that are not as TLS has them."""


class PeerMessageError(ClusterError):
    """An authenticated peer sent a message that this node does not understand."""


class Evicted(AuthenticationError):
    """The peer shows a certificate of this cluster whose node was evicted: it may be told that, and nothing else."""


class PeerUnreachable(ClusterError):
    """There is no link to the peer, and nothing of the request was sent."""


class CommandRefused(ClusterError):
    """A definite no: the command was not carried out and will not be."""


class OutcomeUnknown(ClusterError):
    """Time ran out or the link broke: what was asked may have happened, may yet happen, or may not.

    Args:
        key: the idempotency key under which the same command can be submitted again; empty where there is none.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "", key: str = "") -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.key = key


class RemoteError(ClusterError):
    """The handler on the peer answered with an error; the sentence is the peer's own.

    Args:
        kind: the name of the error's class on the peer.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "", kind: str = "") -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.kind = kind

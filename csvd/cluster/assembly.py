"""A node of the cluster on what a real host has: a state directory, a thread that writes the journal, TCP."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from csvd.cluster.admission import Admission
from csvd.cluster.alone import AloneNetwork
from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.cluster import Cluster
from csvd.cluster.data_keys import DataKeys
from csvd.cluster.errors import ClusterError
from csvd.cluster.identity.certificate import NodeIdentity
from csvd.cluster.identity.files import (
    certify_again,
    has_identity,
    load_data_keys,
    load_identity,
    store_data_keys,
)
from csvd.cluster.identity.joining_files import load_first_members
from csvd.cluster.names import NODE_NAME_RULE, address_of_text, is_node_name
from csvd.cluster.network import Address, Network
from csvd.cluster.own_record import OwnRecord
from csvd.cluster.peer import PeerNetwork
from csvd.cluster.reactor import Reactor
from csvd.cluster.state_directory import StateDirectory
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError

T = TypeVar("T")


def boottime_s() -> float:
    """Seconds since the host was started, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now_ms() -> int:
    """The time of day in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """What a host has of a cluster.

    Attributes:
        cluster: this node's membership; its `stop` closes all that was opened for it.
        identity: who this node is; None for a node that is of no cluster.
        admission: lets nodes in; None for a node that is of no cluster.
        own_record: keeps the record of this node right, from `start` on; None for a node that is of no cluster.
        data_keys: the cluster's keys for secrets on shared disks; None for a node that is of no cluster.
    """

    cluster: Cluster
    identity: NodeIdentity | None
    admission: Admission | None
    own_record: OwnRecord | None
    data_keys: DataKeys | None


def open_node(
    *,
    node: str,
    directory: Path,
    listen: Address,
    advertise: str,
    reactor: Reactor,
    timeouts: Timeouts | None = None,
    failed: Callable[[ClusterError], None] | None = None,
) -> ClusterNode:
    """The node of a state directory. One that has no identity there is alone: a cluster of one that listens nowhere.

    Args:
        node: the name of this node, as it is configured.
        directory: where the node keeps what it must not forget; one process at a time.
        listen: host and port to accept the other nodes at; only this address is bound. Port 0 takes a free one.
        advertise: where the others find it, `host:port`.
        reactor: the node's loop.
        timeouts: the same on every node.
        failed: see Cluster.

    Raises:
        ConfigError: the name, the identity or the state directory can not be.
        JournalError: the state could not be written.
    """
    if not is_node_name(node):
        raise ConfigError(f"{node!r} can not be the name of a node", hint=f"a name is {NODE_NAME_RULE}")
    times = timeouts or Timeouts()
    files = StateDirectory(directory)
    try:
        identity = _identity(directory, node)
        network: Network
        if identity is None:
            network = AloneNetwork(node, reactor)
            begin_cluster(files, node, founding_members({node: ""}), now_ms=now_ms())
        else:
            first = load_first_members(directory)
            network = PeerNetwork(
                identity=identity,
                listen=listen,
                reactor=reactor,
                timeouts=times,
                random=SystemRandom(),
                wall_s=time.time,
                first_members={name: (address_of_text(text), keys) for name, (text, keys) in first.items()},
            )
    except BaseException:
        files.close()
        raise
    threads = _journal_thread()
    own_record: OwnRecord | None = None

    def close() -> None:
        if own_record is not None:
            own_record.stop()
        threads.stop()
        files.close()

    cluster = Cluster(
        node=node,
        network=network,
        files=files,
        clock=reactor,
        boottime=boottime_s,
        now_ms=now_ms,
        run_blocking=partial(_run_in, reactor, threads),
        random=SystemRandom(),
        timeouts=times,
        failed=failed,
        stopped=close,
    )
    if identity is None or not isinstance(network, PeerNetwork):
        return ClusterNode(cluster, None, None, None, None)
    own_record = OwnRecord(
        directory,
        identity,
        advertise,
        cluster=cluster,
        network=network,
        clock=reactor,
        wall_s=time.time,
        run=partial(_run_in, reactor, threads),
    )
    data_keys = DataKeys(
        load_data_keys(directory),
        store=lambda keys: _run_in(reactor, threads, lambda: store_data_keys(directory, keys)),
        holders=cluster,
    )
    admission = Admission(cluster, lambda: own_record.identity, time.time, data_key=lambda: data_keys.current_key)
    admission.serve(network)
    network.tell_evicted(lambda fingerprint: fingerprint in cluster.register.evicted)
    network.on_evicted = cluster.evicted
    return ClusterNode(cluster, identity, admission, own_record, data_keys)


def _identity(directory: Path, node: str) -> NodeIdentity | None:
    """Who this node is by its state directory; None where it is of no cluster."""
    if not has_identity(directory):
        return None
    identity = load_identity(directory)
    if identity.node != node:
        raise ConfigError(
            f"the state directory is node {identity.node}'s, and the configuration names {node}",
            where=str(directory),
            hint="a node keeps the name that it joined by; csvd node rename changes the one that is shown",
        )
    now_s = time.time()
    if identity.expires_at_s <= now_s:
        return certify_again(directory, identity, now_s=now_s)
    return identity


class _DaemonThread(Thread):
    """A thread that does not keep the process alive."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, daemon=True, **options)


def _journal_thread() -> ThreadPool:
    """One thread, in which the journal is written."""
    pool = ThreadPool(minthreads=1, maxthreads=1, name="csvd-journal")
    pool.threadFactory = _DaemonThread
    pool.start()
    return pool


def _run_in(reactor: Reactor, pool: ThreadPool, call: Callable[[], T]) -> Deferred[T]:
    return deferToThreadPool(reactor, pool, call)  # type: ignore[arg-type]

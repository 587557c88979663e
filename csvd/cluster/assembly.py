"""A node of the cluster on what a real host has: a state directory, a thread that writes the journal, TCP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import SystemRandom
from threading import Thread
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.cluster import Cluster
from csvd.cluster.errors import ClusterError
from csvd.cluster.names import NODE_NAME_RULE, is_node_name, text_of_address
from csvd.cluster.network import Address
from csvd.cluster.peer import PeerNetwork
from csvd.cluster.reactor import Reactor
from csvd.cluster.register_members import MAXIMUM_MEMBERS
from csvd.cluster.shared_secret import fingerprints_of_secret, identity_of_secret
from csvd.cluster.state_directory import StateDirectory
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError

_BOOTTIME: Final = time.CLOCK_BOOTTIME


def boottime_s() -> float:
    """Seconds since the host was started, those in which it slept included."""
    return time.clock_gettime(_BOOTTIME)


def open_cluster(
    *,
    node: str,
    listen: Address,
    members: Mapping[str, Address],
    secret: bytes,
    state_directory: Path,
    reactor: Reactor,
    timeouts: Timeouts | None = None,
    failed: Callable[[ClusterError], None] | None = None,
) -> Cluster:
    """A node of a cluster; `stop` closes all that was opened for it.

    Args:
        node: the name of this node.
        listen: host and port to accept the other nodes at; only this address is bound. Port 0 takes a free one.
        members: host and port of every node by name, this one included; the register of a new cluster begins with them.
        secret: known to the members alone; 16 to 4096 random bytes.
        state_directory: where the node keeps what it must not forget; one process at a time.
        reactor: the node's loop.
        timeouts: the same on every node.
        failed: see Cluster.

    Raises:
        ConfigError: a name, the list of members, the address, the secret or the state directory can not be.
        JournalError: the state could not be written.
    """
    _check_members(node, listen, members)
    times = timeouts or Timeouts()
    random = SystemRandom()
    identity = identity_of_secret(secret, node, now_s=time.time())
    files = StateDirectory(state_directory)
    try:
        addresses = {name: text_of_address(address) for name, address in members.items()}
        begin_cluster(
            files,
            node,
            founding_members(addresses, fingerprints_of_secret(secret, members)),
            now_ms=time.time_ns() // 1_000_000,
        )
    except BaseException:
        files.close()
        raise
    threads = _journal_thread()

    def close() -> None:
        threads.stop()
        files.close()

    return Cluster(
        node=node,
        network=PeerNetwork(
            identity=identity, listen=listen, reactor=reactor, timeouts=times, random=random, wall_s=time.time
        ),
        files=files,
        clock=reactor,
        boottime=boottime_s,
        now_ms=lambda: time.time_ns() // 1_000_000,
        run_blocking=partial(_run_in, reactor, threads),
        random=random,
        timeouts=times,
        failed=failed,
        stopped=close,
    )


def _check_members(node: str, listen: Address, members: Mapping[str, Address]) -> None:
    for name in (node, *members):
        if not is_node_name(name):
            raise ConfigError(f"{name!r} can not be the name of a node", hint=f"a name is {NODE_NAME_RULE}")
    if node not in members:
        raise ConfigError("this node is not among the members", where=node)
    if len(members) > MAXIMUM_MEMBERS:
        raise ConfigError(f"the cluster has {len(members)} members, more than {MAXIMUM_MEMBERS}")
    if not listen[0]:
        raise ConfigError("there is no address to listen at for the other nodes", where=node)


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


def _run_in(reactor: Reactor, pool: ThreadPool, call: Callable[[], None]) -> Deferred[None]:
    return deferToThreadPool(reactor, pool, call)  # type: ignore[arg-type]

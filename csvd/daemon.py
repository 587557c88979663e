"""The daemon of a node: builds every part from the configuration, starts them in order, stops them in reverse."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from csvd import runtime
from csvd.api.disks import DiskRoutes
from csvd.api.events import EventRing
from csvd.api.exports import ExportRoutes
from csvd.api.guests import GuestRoutes
from csvd.api.members import MemberRoutes
from csvd.api.node import NodeRoutes
from csvd.api.peers import Peers
from csvd.api.routes import Route, Router
from csvd.api.server import ControlServer, MetricsServer
from csvd.api.tokens import TokenRoutes
from csvd.api.version import version
from csvd.api.watch import Watch
from csvd.cluster.assembly import ClusterNode, open_node
from csvd.cluster.errors import ClusterError
from csvd.cluster.identity.files import has_identity
from csvd.config.load import Source, check_may_be_clustered
from csvd.config.schema import Config
from csvd.errors import ConfigError
from csvd.exports.administration import Administration
from csvd.exports.cluster_exports import ClusterExports
from csvd.exports.joined import JoinedServing
from csvd.exports.local import LocalServing, Portals
from csvd.exports.scopes import Scopes
from csvd.exports.serving import Serving
from csvd.migration.destination import MigrationDestination
from csvd.migration.outgoing import Surroundings
from csvd.migration.precopy import NoConvergence, Policy
from csvd.migration.source import MigrationSource
from csvd.node_cluster import DiskLogin, NodeCluster
from csvd.storage.pool import DiskPool
from csvd.target.cluster_units import ClusterUnits
from csvd.target.kept_state import DirectoryHeld, KeptState, hold
from csvd.target.listener import parse_portal
from csvd.target.service import TargetService
from csvd.target.unit_service import UnitService
from csvd.target.units import Units
from csvd.vm.files import GuestFiles
from csvd.vm.handover import GuestHost
from csvd.vm.ownership import NodeGuests
from csvd.vm.process import GuestProcess
from csvd.workers.process import WorkerProcess
from csvd.workers.serving import WorkerServing
from csvd.workers.slot import Slot

LOCK_NAME: Final = "daemon.lock"
CLUSTER_FOLDER: Final = "cluster"
UNITS_FOLDER: Final = "units"
"""Where the state of logical units is kept over a restart."""
WORKER_THREADS: Final = 8
ORPHANS_END_S: Final = 10.0
"""How long the start waits for the workers of a daemon that was killed."""
MIGRATIONS_END_S: Final = 20.0
"""How long a stop waits for migrations that nobody can call off any more. The register decides them without this
node, too, and both sides read it when they come back."""

T = TypeVar("T")

_log: Final = Logger()


def run(source: Source, config: Config, *, log_level: str) -> int:
    """Run a node until SIGINT or SIGTERM; give the exit status.

    Args:
        config: what the source comes to.
    """
    runtime.start_logging(log_level)
    starting = partial(start, source=source, config=config, log_level=log_level)
    return runtime.run_until_signal(starting, program="csvd run")


async def start(reactor: Any, *, source: Source, config: Config, log_level: str) -> Callable[[], Awaitable[None]]:
    """Start all parts of a node; give what stops them.

    Raises:
        CsvdError: a part can not start; those that had are stopped again.
    """
    async with contextlib.AsyncExitStack() as parts:
        portals = await _Node(reactor, source, config, parts, log_level).start()
        parts.callback(_notify, "STOPPING=1")
        kept = parts.pop_all()
    ready = " ".join(["ready", f"control={config.control.socket}", *(f"portal={portal}" for portal in portals)])
    sys.stdout.write(ready + "\n")
    sys.stdout.flush()
    _notify(f"READY=1\nSTATUS={ready}")
    return kept.aclose


class _Node:
    """The parts of one node, as they are being started. Each leaves behind, on the stack, what stops it."""

    def __init__(
        self, reactor: Any, source: Source, config: Config, parts: contextlib.AsyncExitStack, log_level: str
    ) -> None:
        self._reactor = reactor
        self._source = source
        self._config = config
        self._parts = parts
        self._log_level = log_level
        self._events = EventRing()
        self._metrics_route: Route

    async def start(self) -> list[str]:
        """Start them in order; give the portals."""
        config = self._config
        self._parts.enter_context(lock_state_directory(config.node.state_directory))
        threads = _Threads(self._reactor)
        self._parts.callback(threads.stop)
        login = DiskLogin(config.cluster.disk_secret_file, config.cluster.disk_initiator_name)
        parts = NodeCluster(
            self._make_cluster(),
            self._reactor,
            tell=self._tell,
            disk_login=login,
            directory=config.node.state_directory,
        )
        cluster = parts.cluster
        self._parts.push_async_callback(parts.stop)
        target, exports, of_cluster = await self._make_target(threads, parts)
        files = GuestFiles(config.guests.directory)
        guests = NodeGuests(
            cluster,
            files,
            threads.run,
            make_driver=lambda name, image, spec: GuestProcess(self._reactor, name, image, spec),
        )
        surroundings = Surroundings(cluster, self._reactor, threads.run)
        host = GuestHost(guests, files, threads.run)
        source = MigrationSource(surroundings, host)
        destination = MigrationDestination(surroundings, host)
        router = self._make_router(parts, guests, source, target, exports)

        # The guests come first: a call of another node must not meet a node that has not read what it has.
        self._parts.push_async_callback(guests.close)
        await guests.begin()
        self._parts.push_async_callback(self._end_migrations, source, destination)
        self._parts.push_async_callback(target.stop)
        self._parts.callback(of_cluster.stop)
        # Nothing of its own needs the others, and what is wrong with a disk or a portal is told before anything else.
        portals = await exports.start()
        await parts.start()
        of_cluster.start()
        watch = Watch(self._events, cluster)
        self._parts.callback(watch.stop)
        watch.start()
        if config.metrics is not None:
            metrics_host, metrics_port = parse_portal(config.metrics.listen)
            metrics = MetricsServer(self._reactor, Router([self._metrics_route]), metrics_host, metrics_port)
            self._parts.push_async_callback(metrics.stop)
            metrics.start()
        control = ControlServer(self._reactor, router, config.control.socket, mode=config.control.mode)
        self._parts.push_async_callback(control.stop)
        control.start()
        return portals

    async def _make_target(self, threads: _Threads, parts: NodeCluster) -> tuple[JoinedServing, Scopes, ClusterExports]:
        """What is to serve the targets, and what will tell it which: this node's own, and the cluster's."""
        directory = self._config.node.state_directory / UNITS_FOLDER
        descriptor = await self._hold(directory)
        units = None
        if self._config.node.workers:
            workers = self._make_workers(descriptor, directory)
            serving = JoinedServing(workers)
        else:
            units = self._make_cluster_units(parts)
            serving = self._make_local(descriptor, directory, threads, units)
        parts.coordination.add_service(lambda disk, is_system: UnitService(units) if is_system else None)
        state_directory = self._config.node.state_directory
        own = Administration(self._source, state_directory, serving=serving, run=threads.run, events=self._events)
        of_cluster = self._make_cluster_exports(parts, serving, threads, units)
        return serving, Scopes(own, of_cluster.administration), of_cluster

    def _make_cluster_units(self, parts: NodeCluster) -> ClusterUnits:
        """The logical units that all nodes export, as this node has them."""
        cluster = parts.cluster

        def number_of(node: str) -> int:
            member = cluster.members.get(node)
            return 0 if member is None else member.number

        prefix = f"{cluster.node} {os.urandom(8).hex()} "
        units = ClusterUnits(parts.coordination, self._reactor, number_of=number_of, prefix=prefix)
        self._parts.callback(units.stop)
        return units

    def _make_cluster_exports(
        self, parts: NodeCluster, serving: JoinedServing, threads: _Threads, units: ClusterUnits | None
    ) -> ClusterExports:
        """What all nodes export, at this one."""
        exports = ClusterExports(
            parts.coordination,
            members=lambda: parts.cluster.members,
            on_members=parts.cluster.on_change,
            serving=serving,
            keys=parts.node.data_keys,
            portals=self._config.cluster.portals,
            clock=self._reactor,
            run=threads.run,
            entropy=os.urandom,
            tell=self._tell,
            on_current=units.attach if units is not None else lambda: None,
        )
        if units is not None:
            units.may_attach = lambda: exports.targets.is_current
        return exports

    async def _hold(self, directory: Path) -> int:
        """Hold what is kept of logical units. Workers of a daemon that was killed have it until they have ended."""
        deadline_s = self._reactor.seconds() + ORPHANS_END_S
        while True:
            try:
                return hold(directory)
            except DirectoryHeld:
                if self._reactor.seconds() >= deadline_s:
                    raise
            await deferLater(self._reactor, 0.1)

    def _make_local(self, descriptor: int, directory: Path, threads: _Threads, units: ClusterUnits) -> JoinedServing:
        """Serving in this process."""
        pool = DiskPool(self._reactor)

        async def stop_pool() -> None:
            await maybeDeferred(pool.stop)

        keeper = KeptState(directory, pool, descriptor=descriptor)
        self._parts.callback(keeper.close)
        self._parts.push_async_callback(stop_pool)
        service = TargetService(
            self._reactor,
            [],
            keeper=keeper,
            keepalive=self._config.keepalive.to_keepalive(),
            cluster_reservations=units.of,
            tell=self._tell,
        )
        units.tasks = service
        portals = Portals(service)
        serving = LocalServing(service, Units(pool), keeper, portals=portals, run=threads.run, tell=self._tell)
        return JoinedServing(serving, tell_ports=service.set_cluster_ports)

    def _make_workers(self, descriptor: int, directory: Path) -> WorkerServing:
        """Serving by processes under this one."""
        self._parts.callback(os.close, descriptor)
        keepalive = self._config.keepalive.to_keepalive()
        front = TargetService(self._reactor, [], keepalive=keepalive, tell=self._tell)
        launch = partial(WorkerProcess, self._reactor, self._log_level)

        def make_slot(number: int, counted: Callable[[dict[str, Any]], None], ended: Callable[[], None]) -> Slot:
            return Slot(
                self._reactor,
                number,
                launch=launch,
                directory=(str(directory), descriptor),
                keepalive=keepalive,
                tell=self._tell,
                counted=counted,
                ended=ended,
            )

        return WorkerServing(self._reactor, front, self._config.node.workers, make_slot)

    def _tell(self, kind: str, text: str, subject: str) -> None:
        self._events.add(kind, text, subject=subject)

    def _make_cluster(self) -> ClusterNode:
        config = self._config
        section = config.cluster
        directory = config.node.state_directory / CLUSTER_FOLDER
        if has_identity(directory):
            check_may_be_clustered(config, where=self._source.where)
        return open_node(
            node=config.node.name,
            directory=directory,
            listen=parse_portal(section.listen),
            advertise=section.advertise or section.listen,
            reactor=self._reactor,
            timeouts=section.timeouts.to_timeouts(),
            failed=self._cluster_failed,
        )

    def _cluster_failed(self, error: ClusterError) -> None:
        """This node takes no part in the cluster any more. Its target does not need one, and goes on."""
        _log.critical("this node takes no part in the cluster until it is started again: {error}", error=error)
        self._events.add("cluster", f"this node takes no part any more: {error}", subject=self._config.node.name)

    def _make_router(
        self,
        parts: NodeCluster,
        guests: NodeGuests,
        source: MigrationSource,
        target: Serving,
        exports: Scopes,
    ) -> Router:
        config, cluster = self._config, parts.cluster
        peers = Peers(cluster)
        node_routes = NodeRoutes(
            cluster, guests, peers, self._events, target=target, exports=exports, version=version(), disks=parts
        )
        export_routes = ExportRoutes(exports, peers)
        policy = Policy(
            downtime_target_s=config.guests.downtime_target_ms / 1000,
            maximum_rounds=config.guests.max_rounds,
            no_convergence=NoConvergence(config.guests.on_no_progress),
        )
        guest_routes = GuestRoutes(cluster, guests, source, peers, self._events, policy=policy)
        self._metrics_route = node_routes.metrics_route()
        cluster_routes = (
            *DiskRoutes(parts).routes(),
            *TokenRoutes(parts.node.admission).routes(),
            *MemberRoutes(cluster, exports.rotate_key).routes(),
        )
        router = Router([*node_routes.routes(), *cluster_routes, *export_routes.routes(), *guest_routes.routes()])
        peers.serve(router)
        return router

    async def _end_migrations(self, source: MigrationSource, destination: MigrationDestination) -> None:
        for role in (source, destination):
            ending = Deferred.fromCoroutine(role.stop())
            ending.addTimeout(MIGRATIONS_END_S, self._reactor)
            try:
                await ending
            except DeferredTimeoutError:
                _log.warn("a migration is not decided after {seconds:g} s; stopping anyway", seconds=MIGRATIONS_END_S)


class _Threads:
    """Threads for what blocks: memory images, and the files of guests."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=WORKER_THREADS, name="csvd-work")
        self._pool.start()

    def run(self, job: Callable[[], T], /) -> Deferred[T]:
        """Run a job in a thread; fires on the loop."""
        return deferToThreadPool(self._reactor, self._pool, job)

    def stop(self) -> None:
        """End the threads, after what they are at."""
        self._pool.stop()


@contextlib.contextmanager
def lock_state_directory(path: Path) -> Any:
    """Make the state directory and hold it for this process alone; its lock file tells which process that is.

    Raises:
        ConfigError: it can not be made, or another daemon has it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            "the state directory can not be used", where=str(path), why=error.strerror or str(error)
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "another process"
            raise ConfigError(
                "another daemon uses this state directory",
                where=str(path),
                why=f"its process is {owner}",
                hint="give each node its own: node.state_directory",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        # The file stays: to remove it would let a third process lock a new one beside the second's.
        yield
    finally:
        os.close(descriptor)


def _notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect(address)
            notify.sendall(state.encode())
    except OSError as error:
        _log.warn("systemd could not be told {state}: {error}", state=state, error=error)

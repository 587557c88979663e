"""One node of a cluster in a process of its own, for tests: asked and telling by JSON lines on stdin and stdout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from csvd.cluster.assembly import open_node
from csvd.cluster.cluster import Cluster
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown
from csvd.cluster.names import text_of_address
from csvd.cluster.register import Register
from csvd.cluster.stream import StreamLink
from csvd.errors import CsvdError
from csvd.runtime import install_reactor


def tell(message: dict[str, Any]) -> None:
    """Print a line; the time is the host's monotonic clock, the same in every process."""
    sys.stdout.write(json.dumps({**message, "at_s": time.monotonic()}) + "\n")
    sys.stdout.flush()


class Asked(LineReceiver):
    """Runs what the test asks for; the end of stdin stops the node."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, cluster: Cluster, reactor: Any) -> None:
        self.cluster = cluster
        self.reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        question = json.loads(line)
        Deferred.fromCoroutine(self.answer(question))

    async def answer(self, question: dict[str, Any]) -> None:
        number = question.pop("id")
        try:
            result = await getattr(self, "do_" + question.pop("do"))(**question)
        except CsvdError as error:
            trouble: dict[str, Any] = {"error": type(error).__name__, "text": str(error)}
            if isinstance(error, OutcomeUnknown):
                trouble["key"] = error.key
            tell({"id": number, **trouble})
        else:
            tell({"id": number, "result": result})

    async def do_submit(self, command: dict[str, Any], timeout_s: float, key: str | None = None) -> object:
        return await self.cluster.submit(command, timeout_s=timeout_s, key=key)

    async def do_read_guest(self, name: str, timeout_s: float) -> object:
        return await self.cluster.read_guest(name, timeout_s=timeout_s)

    async def do_status(self) -> object:
        return self.cluster.status()

    async def do_call(self, node: str, method: str, params: dict[str, Any], timeout_s: float) -> object:
        return await self.cluster.call(node, method, params, timeout_s=timeout_s)

    async def do_stream(self, node: str, kind: str, length_bytes: int) -> object:
        """Send bytes over a stream as fast as flow control lets; gives what the other end echoed of their count."""
        link = await self.cluster.open_stream(node, kind, {"length_bytes": length_bytes})
        counted: Deferred[int] = Deferred()
        link.on_data = lambda data: counted.callback(int(data))
        link.on_lost = lambda reason: None if counted.called else counted.errback(ClusterError(reason))
        producer = Producer(link, length_bytes)
        link.transport.registerProducer(producer, True)
        producer.resumeProducing()
        result = await counted
        link.lose()
        return result

    def connectionLost(self, reason: object = None) -> None:
        Deferred.fromCoroutine(self.cluster.stop()).addBoth(lambda _: self.reactor.stop())


class Producer:
    """Writes a number of bytes, 64 KiB at a time."""

    def __init__(self, link: StreamLink, left_bytes: int) -> None:
        self.link = link
        self.left_bytes = left_bytes
        self.is_paused = False

    def resumeProducing(self) -> None:
        self.is_paused = False
        while self.left_bytes and not self.is_paused:
            piece = bytes(min(self.left_bytes, 64 * 1024))
            self.left_bytes -= len(piece)
            self.link.write_sequence([piece])
        if not self.left_bytes:
            self.link.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.is_paused = True

    def stopProducing(self) -> None:
        self.is_paused = True


async def echo(peer: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"peer": peer, **params}


async def refuse(peer: str, params: dict[str, Any]) -> dict[str, Any]:
    raise CommandRefused("this is refused", where="here", why="because", hint="do not")


async def fail(peer: str, params: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("inside")


def count_stream(peer: str, header: dict[str, Any], link: StreamLink) -> None:
    received = 0

    def data(piece: bytes) -> None:
        nonlocal received
        received += len(piece)
        if received == header["length_bytes"]:
            link.write_sequence([str(received).encode()])

    link.on_data = data


def refuse_stream(peer: str, header: dict[str, Any], link: StreamLink) -> None:
    raise CommandRefused("no such thing here")


def main() -> None:
    reactor = install_reactor()
    observer: Any = textFileLogObserver(sys.stderr)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    config = json.loads(sys.argv[1])
    members = {name: (host, port) for name, (host, port) in config["members"].items()}
    last: list[tuple[str, int]] = []

    def changed(register: Register) -> None:
        record = register.coordinator
        if record is not None and last != [(record.node, record.epoch)]:
            last[:] = [(record.node, record.epoch)]
            tell({"event": "coordinator", "node": record.node, "epoch": record.epoch})

    async def start() -> None:
        listen = members[config["node"]]
        node = open_node(
            node=config["node"],
            directory=Path(config["state_directory"]),
            listen=listen,
            advertise=text_of_address(listen),
            reactor=reactor,
        )
        cluster = node.cluster
        cluster.on_change(changed)
        for method in (echo, refuse, fail):
            cluster.serve(method.__name__, method)
        cluster.serve_stream("count", count_stream)
        cluster.serve_stream("refused", refuse_stream)
        await cluster.start()
        if node.own_record is not None:
            node.own_record.start()
        tell({"event": "started"})
        StandardIO(Asked(cluster, reactor), reactor=reactor)  # type: ignore[no-untyped-call]

    status = 0

    def cannot(failure: Any) -> None:
        nonlocal status
        status = 1
        tell({"event": "failed", "text": str(failure.value)})
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()).addErrback(cannot))
    reactor.run()
    sys.exit(status)


if __name__ == "__main__":
    main()

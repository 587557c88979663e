"""The five steps of the demo, each with what was measured and whether it held."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from csvd.demo.initiators import SLOT_BYTES, ReactorThread, Work, read_digests, write_random
from csvd.demo.interrupts import Interrupts
from csvd.demo.nodes import TARGET, DemoFailed, DemoNode, DemoNodes
from csvd.errors import CsvdError

MIB = 2**20
DISK_BYTES = 1024 * MIB
COPY_BYTES = 64 * MIB
GUEST_BYTES = 256 * MIB
GUEST_PAGES_PER_S = 2000
WORK_OFFSET_BYTES = 128 * MIB
WORK_SLOTS = 64 * MIB // SLOT_BYTES
START_TIMEOUT_S = 30.0
ELECTION_TIMEOUT_S = 20.0
WORK_BEFORE_S = 1.0
WORK_AFTER_S = 1.5
GUEST = "guest"
GUEST_MOVES_TO = "node2"


class Walk:
    """One run of the demo. ``facts`` holds what each step measured."""

    def __init__(self, nodes: DemoNodes, reactor: ReactorThread, *, as_json: bool) -> None:
        self._nodes = nodes
        self._reactor = reactor
        self._as_json = as_json
        self.facts: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []

    def steps(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """The steps by their names, in their order."""
        return [
            ("coordinator", self.elect),
            ("shared disk", self.share),
            ("migration", self.migrate),
            ("failover", self.fail_over),
        ]

    def run(self) -> bool:
        """Walk through all steps; give whether all held. A step that fails does not keep the later ones from being
        tried, as long as there is a cluster."""
        for number, (name, step) in enumerate(self.steps(), 1):
            try:
                self.facts[name] = step()
            except CsvdError as error:
                self.facts[name] = {"failed": str(error)}
                self.failures.append(name)
                self.say(number, name, f"FAILED: {error}")
                if number == 1:
                    break
        return not self.failures

    def say(self, number: int, name: str, what: str) -> None:
        """Print a line of a step."""
        if not self._as_json:
            click.echo(f"{number}  {name:<12} {what}")

    # 1

    def elect(self) -> dict[str, Any]:
        """Make a cluster on node 1, have the others join it by tokens, and wait for a coordinator."""
        began_s = time.monotonic()
        first, *others = self._nodes.nodes
        first.run_command("init", "--cluster", "demo")
        self._nodes.start(first)
        self._nodes.wait("the cluster was made", START_TIMEOUT_S, first.is_coordinator)
        for node in others:
            node.run_command("join", "-", secret=first.client.create_token()["token"])
            self._nodes.start(node)
        self._nodes.wait("all nodes have joined", START_TIMEOUT_S, self._nodes.all_vote)
        name, epoch = self._nodes.wait(
            "a coordinator was elected", START_TIMEOUT_S, lambda: self._nodes.coordinator_at(self._nodes.nodes)
        )
        elapsed_ms = (time.monotonic() - began_s) * 1000
        self.say(1, "coordinator", f"{name}, epoch {epoch}, {elapsed_ms:.0f} ms after the begin of csvd init")
        self.say(1, "coordinator", f"{' and '.join(node.name for node in others)} have joined by tokens, and vote")
        return {"node": name, "epoch": epoch, "elapsed_ms": round(elapsed_ms)}

    # 2

    def share(self) -> dict[str, Any]:
        """Write through node 1; read back through nodes 2 and 3."""
        writer, *readers = self._nodes.nodes
        wanted, seconds = self._reactor.run(partial(write_random, url=writer.url, total_bytes=COPY_BYTES))
        facts: dict[str, Any] = {"written_bytes": COPY_BYTES, writer.name: _rate(COPY_BYTES, seconds)}
        line = f"{COPY_BYTES // MIB} MiB written through {writer.name} at {facts[writer.name]}"
        for node in readers:
            found, seconds = self._reactor.run(partial(read_digests, url=node.url, total_bytes=COPY_BYTES))
            wrong = sum(a != b for a, b in zip(wanted, found, strict=True))
            if wrong:
                raise DemoFailed(f"{wrong} of {len(wanted)} chunks read through {node.name} differ")
            facts[node.name] = _rate(COPY_BYTES, seconds)
            line += f", read through {node.name} at {facts[node.name]}"
        self.say(2, "shared disk", f"{line}: {len(wanted)} SHA-256 digests equal at both")
        return facts

    # 3

    def migrate(self) -> dict[str, Any]:
        """Run a guest on node 1 and move it to node 2 while it writes."""
        source, destination = self._nodes["node1"], self._nodes[GUEST_MOVES_TO]
        source.client.create_guest(
            GUEST, {"memory_bytes": GUEST_BYTES, "pages_per_s": GUEST_PAGES_PER_S}, node=source.name
        )
        before = self._wait_for_count(source, 0)
        self.say(
            3,
            "migration",
            f"{GUEST} runs on {source.name}: {GUEST_BYTES // MIB} MiB, {GUEST_PAGES_PER_S} pages rewritten a second",
        )
        if not self._as_json:
            click.echo(f"   $ csvd migrate {GUEST} --to {destination.name}")
        self._run_migrate(source, destination)
        report = destination.client.migration(GUEST)["report"]
        after = destination.client.verify_guest(GUEST)
        if after["pages_bad"]:
            raise DemoFailed(f"{after['pages_bad']} of {after['pages_checked']} pages are wrong at {destination.name}")
        if after["counter"] < before:
            raise DemoFailed(f"the count fell from {before} to {after['counter']}")
        goes_on = self._wait_for_count(destination, after["counter"])
        self._show_migration(report, before, after, goes_on)
        return {"report": report, "counter_before": before, "verified": after, "counter_goes_on": goes_on}

    def _run_migrate(self, source: DemoNode, destination: DemoNode) -> None:
        """Run the command as a person would; its progress bar is on stderr."""
        command = [sys.executable, "-m", "csvd", "--socket", str(source.socket), "migrate", GUEST]
        command += ["--to", destination.name, "--json"]
        progress = subprocess.PIPE if self._as_json else None
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=progress)
        if done.returncode:
            raise DemoFailed(f"csvd migrate ended with status {done.returncode}")

    def _wait_for_count(self, node: DemoNode, above: int) -> int:
        def count() -> int | None:
            counter = int(node.client.guest(GUEST).get("counter") or 0)
            return counter if counter > above else None

        return self._nodes.wait(f"{GUEST} counted on", 20.0, count)

    def _show_migration(self, report: dict[str, Any], before: int, after: dict[str, Any], goes_on: int) -> None:
        for each in report["rounds"]:
            kind = "last, stopped" if each["is_last"] else "running"
            self.say(
                3,
                f"  round {each['number']}",
                f"{each['bytes_sent'] / MIB:8.1f} MiB  {each['throughput_bytes_per_s'] / MIB:6.0f} MiB/s  {kind}",
            )
        self.say(
            3,
            "migration",
            f"{len(report['rounds'])} rounds, {report['bytes_sent'] / MIB:.1f} MiB in {report['total_s']:.2f} s, "
            f"{report['zero_pages_elided']} zero pages elided, downtime {report['downtime_ms']:.1f} ms",
        )
        self.say(
            3,
            "migration",
            f"the count goes on: {before} → {after['counter']} → {goes_on}; {after['pages_checked']} pages check",
        )

    # 4

    def fail_over(self) -> dict[str, Any]:
        """Kill the coordinator while an initiator writes through the two others, then let it come back."""
        name, epoch = self._nodes.wait(
            "a coordinator was named", ELECTION_TIMEOUT_S, lambda: self._nodes.coordinator_at(self._nodes.nodes)
        )
        victim = self._nodes[name]
        others = [node for node in self._nodes if node is not victim]
        work = Work((others[0].url, others[1].url), WORK_OFFSET_BYTES, WORK_SLOTS)
        self._reactor.begin(work.run)
        try:
            time.sleep(WORK_BEFORE_S)
            self.say(4, "failover", f"{name} is the coordinator: SIGKILL, while an initiator writes through the others")
            victim.kill()
            killed_s = time.monotonic()
            successor, new_epoch = self._nodes.wait(
                "another coordinator was elected",
                ELECTION_TIMEOUT_S,
                lambda: self._nodes.coordinator_at(others, above_epoch=epoch),
            )
            elapsed_ms = (time.monotonic() - killed_s) * 1000
            self.say(4, "failover", f"{successor}, epoch {epoch} → {new_epoch}, {elapsed_ms:.0f} ms after the kill")
            time.sleep(WORK_AFTER_S)
        finally:
            work.stop()
        if new_epoch != epoch + 1:
            raise DemoFailed(f"the epoch went from {epoch} to {new_epoch}")
        back_ms = self._bring_back(victim, others)
        facts = self._check_work(work) | {"guest": self._check_guest(victim)}
        return facts | {
            "killed": name,
            "coordinator": successor,
            "epoch": new_epoch,
            "elapsed_ms": round(elapsed_ms),
            "back_ms": round(back_ms),
        }

    def _bring_back(self, victim: DemoNode, others: list[DemoNode]) -> float:
        began_s = time.monotonic()
        self._nodes.start(victim)

        def joined() -> bool | None:
            if self._nodes.coordinator_at(self._nodes.nodes) is None:
                return None
            status = others[0].status()
            return True if status and status["members"][victim.name]["connected"] else None

        self._nodes.wait(f"{victim.name} joined again", START_TIMEOUT_S, joined)
        back_ms = (time.monotonic() - began_s) * 1000
        self.say(4, "failover", f"{victim.name} is back and has joined, {back_ms:.0f} ms after its start")
        return back_ms

    def _check_guest(self, victim: DemoNode) -> str:
        """A guest on another node went on; one on the killed node ended with it, and nobody else runs it."""
        owner = self._nodes[GUEST_MOVES_TO]
        if owner is victim:
            self._nodes.wait(
                f"{GUEST} was shown as stopped", START_TIMEOUT_S, lambda: self._guest_is("stopped") or None
            )
            self.say(4, "failover", f"{GUEST} was on {owner.name}: it ended with its node, and nobody else runs it")
            return "stopped"
        seen = owner.client.verify_guest(GUEST)
        if seen["pages_bad"] or not self._guest_is("running"):
            raise DemoFailed(f"{GUEST} on {owner.name} did not live through it", why=str(seen))
        self.say(4, "failover", f"{GUEST} on {owner.name} went on: the count is {seen['counter']}, every page checks")
        return "running"

    def _guest_is(self, state: str) -> bool:
        """Whether every node says so of the guest."""
        return all(node.client.guest(GUEST)["state"] == state for node in self._nodes)

    def _check_work(self, work: Work) -> dict[str, Any]:
        if work.error is not None:
            raise DemoFailed("the initiator met an error", why=str(work.error))
        if work.mismatches:
            raise DemoFailed(f"{work.mismatches} reads through the other node did not give what was written")
        for node in self._nodes:
            lost = self._reactor.run(partial(work.lost, url=node.url))
            if lost:
                raise DemoFailed(f"{lost} acknowledged writes are lost at {node.name}")
        self.say(
            4,
            "failover",
            f"{work.writes} writes acknowledged, the slowest after {work.longest_s * 1000:.0f} ms; no error, "
            f"each read back through the other node, none lost at any of the three",
        )
        return {"writes": work.writes, "slowest_write_ms": round(work.longest_s * 1000)}


def _rate(total_bytes: int, seconds: float) -> str:
    return f"{total_bytes / MIB / seconds:.0f} MiB/s"


def run(*, keep: bool, as_json: bool) -> tuple[bool, dict[str, Any]]:
    """Run the demo; give whether all held, and the facts.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after everything was cleaned up.
    """
    with Interrupts() as interrupts:
        nodes = DemoNodes(interrupts, disk_bytes=DISK_BYTES, guest_bytes=GUEST_BYTES)
        reactor = ReactorThread()
        leave = False
        try:
            nodes.make()
            if not as_json:
                click.echo(f"csvd demo: three nodes on this machine, in {nodes.folder}")
            reactor.start()
            walk = Walk(nodes, reactor, as_json=as_json)
            held = walk.run()
            leave = keep
            if not as_json:
                _conclude(walk, held)
                if keep:
                    _tell_how_to_talk(nodes)
            return held, walk.facts
        finally:
            interrupts.ignore()
            reactor.stop()
            if not leave:
                nodes.stop()


def _conclude(walk: Walk, held: bool) -> None:
    if held:
        click.echo("5  all held     one coordinator, one disk at three nodes, a guest with one owner, nothing lost")
    else:
        click.echo(f"5  NOT all held {', '.join(walk.failures)}")


def _tell_how_to_talk(nodes: DemoNodes) -> None:
    click.echo("\nThe nodes are left running. To talk to them:")
    for node in nodes:
        click.echo(f"  csvd --socket {node.socket} status")
    click.echo(f"  csv-initiator discover {nodes.nodes[0].portal}")
    click.echo(f"  csv-initiator info {nodes.nodes[0].url}   # {TARGET}")
    click.echo(f"  csvd --socket {nodes.nodes[1].socket} vm ls")
    click.echo(f"To end them and remove everything:\n  {nodes.how_to_stop()}")

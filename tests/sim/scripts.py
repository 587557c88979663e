"""For each guard the shortest course of events in which it alone prevents the harm (see tests.sim.guards).

What follows from the events is up to the production code and to chance: with the guard, nothing must come of them.
"""

from __future__ import annotations

from csvd.cluster.coordination.office import FENCED, OWNING, PROMISED
from csvd.storage.cluster_disk import layout
from tests.sim.stage import DISK, NotStaged, Stage
from tests.sim.stores import BLOCK_BYTES, Store


async def two_coordinators_and_a_voter(stage: Stage) -> None:
    """A coordinator and its successor do not hear one another, and one voter hears both."""
    old = await stage.coordinator_that_does_not_lead()
    new = stage.others(old)[0]
    stage.ask_often(old)
    stage.cut(old, [new])
    stage.move(new)
    await stage.until(lambda: stage.is_at(new, OWNING), "the successor owns the disk")
    await stage.pause(6.0)


async def a_voter_that_loses_its_power(stage: Stage) -> None:
    """A voter promises the epoch of a successor and loses its power; then only the coordinator before hears it, until
    the successor would lose its own lease."""
    old = await stage.coordinator_that_does_not_lead()
    new = stage.leader()
    (voter,) = stage.others(old, new)
    stage.ask_often(old)
    stage.cut(old, [new])
    stage.move(new)
    await stage.until(lambda: stage.is_at(new, PROMISED), "a majority has promised the successor's epoch")
    stage.cut(voter, [new])
    stage.kill(voter, power_cut=True)
    await stage.pause(stage.random.uniform(0.05, 0.1))
    stage.start(voter)
    # Soon enough for the successor to keep Raft's lead and its own lease, and late enough for the one before to have
    # renewed its lease until after the successor has waited for its end.
    await stage.pause(stage.random.uniform(0.3, 0.6))
    stage.mend(voter, [new])
    await stage.until(lambda: stage.is_at(new, OWNING), "the successor owns the disk")
    await stage.pause(6.0)


async def a_coordinator_alone(stage: Stage) -> None:
    """A coordinator is cut off, and a successor is chosen at once."""
    old = await stage.coordinator_that_does_not_lead()
    others = stage.others(old)
    stage.ask_often(old)
    stage.cut(old, others)
    stage.move(others[0])
    await stage.until(lambda: stage.is_at(others[0], OWNING), "the successor owns the disk")
    await stage.pause(6.0)
    stage.mend(old, others)


async def a_node_alone(stage: Stage) -> None:
    """A node that is no coordinator is cut off for longer than its lease; the others go on."""
    coordinator = await stage.coordinator_that_does_not_lead()
    alone = stage.others(coordinator)[0]
    others = stage.others(alone)
    stage.ask_often(coordinator)
    stage.cut(alone, others)
    await stage.pause(stage.random.uniform(7.0, 9.0))
    stage.mend(alone, others)


async def a_slow_node_alone(stage: Stage) -> None:
    """As `a_node_alone`, with the node whose clock is slow, and a coordinator whose clock is fast."""
    slow = min(stage.simulation.plan.rates, key=stage.simulation.plan.rates.__getitem__)
    coordinator = stage.others(slow)[0]
    await stage.settled()
    if stage.coordinator() != coordinator:
        stage.move(coordinator)
    await stage.until(lambda: stage.coordinator() == coordinator, "the coordinator's clock is fast")
    await stage.settled()
    stage.ask_often(coordinator)
    others = stage.others(slow)
    stage.cut(slow, others)
    await stage.pause(8.0)
    stage.mend(slow, others)


async def two_takeovers(stage: Stage) -> None:
    """A node whose writes are slow takes the disk; another takes it, too, before the owner block is written."""
    old = await stage.coordinator_that_does_not_lead()
    first, second = stage.others(old)
    stage.slow_down(first, 2.0)
    stage.move(first)
    await stage.until(lambda: stage.is_at(first, FENCED), "the first is about to own the disk", within_s=15.0)
    stage.move(second)
    await stage.pause(5.0)


async def a_write_that_comes_late(stage: Stage) -> None:
    """A coordinator is killed while it writes its records, which come late."""
    old = await stage.coordinator_that_does_not_lead()
    for name in stage.simulation.plan.founders:
        stage.ask_often(name, 0.2)
    store = stage.store()
    await stage.pause(0.5)
    stage.slow_down(old, 3.0)

    def is_writing() -> bool:
        return any(not any(_is_there(store, block) for block in blocks) for blocks in _records_of(old, store))

    await stage.pause(stage.random.uniform(0.05, 0.5))
    await stage.until(is_writing, "the coordinator is writing its records")
    stage.kill(old)
    await stage.pause(4.0)
    stage.start(old)


async def a_torn_write(stage: Stage) -> None:
    """A coordinator is killed when the first block of a record slot has come, and others have not."""
    old = await stage.coordinator_that_does_not_lead()
    for name in stage.simulation.plan.founders:
        stage.ask_often(name, 0.2)
    await stage.pause(1.0)
    stage.slow_down(old, 0.3)
    store = stage.store()

    def is_torn() -> bool:
        return any(
            _is_there(store, blocks[0]) and not all(_is_there(store, block) for block in blocks)
            for blocks in _records_of(old, store)
        )

    await stage.until(is_torn, "half of a record slot is written")
    stage.kill(old)
    await stage.pause(3.0)
    stage.start(old)


async def a_node_that_the_successor_does_not_hear(stage: Stage) -> None:
    """The office moves to a node that does not hear another one, which has a session."""
    old = await stage.coordinator_that_does_not_lead()
    leader = stage.leader()
    new, unheard = stage.others(old, leader)[:2]
    stage.ask_often(new)
    stage.cut(new, [unheard])
    stage.move(new)
    await stage.pause(8.0)
    stage.mend(new, [unheard])


async def an_ask_that_is_not_answered(stage: Stage) -> None:
    """A coordinator is killed between the keeping of a change and its answer."""
    old = await stage.coordinator_that_does_not_lead()
    workload, asking = stage.simulation.workload, stage.others(old)[0]
    node = stage.node(asking)
    assert node is not None
    token = workload.ask(node, DISK, 15.0)
    kept = stage.simulation.disk_checks.kept_tokens(DISK)
    await stage.until(lambda: token in kept, "the change of the ask is durable")
    if workload.outcomes[token] != "asked":
        raise NotStaged("it is answered already")
    stage.kill(old)
    await stage.pause(6.0)
    stage.start(old)


async def a_command_that_is_not_answered(stage: Stage) -> None:
    """Raft's leader is killed between the committing of a command and its answer."""
    await stage.settled()
    leader = stage.leader()
    workload, created = stage.simulation.workload, stage.simulation.raft_checks.created
    node = stage.node(stage.others(leader)[0])
    assert node is not None
    name = workload.change(node, 10.0)
    await stage.until(lambda: name in created, "the command is committed")
    if workload.outcomes[name] != "asked":
        raise NotStaged("it is answered already")
    stage.kill(leader)
    await stage.pause(5.0)
    stage.start(leader)


async def a_coordinator_that_stands_still(stage: Stage) -> None:
    """A coordinator stands still, and nobody lets it go on."""
    old = await stage.coordinator_that_does_not_lead()
    node = stage.node(old)
    assert node is not None
    node.process.pause()
    await stage.pause(30.0)


async def two_changes_of_the_voters(stage: Stage) -> None:
    """The fault of single-server changes that Raft's author found in 2015.

    A leader has a fifth node vote, of which only the two know. Of the other three one leads by the votes of all, and
    removes the first leader when only one of them hears it: two of three. The third votes for the first leader, or the
    fifth node: three of five.
    """
    await stage.settled()
    first, fifth = stage.leader(), "n5"
    rest = stage.others(first)
    stage.cut(fifth, stage.simulation.plan.founders)
    via = stage.node(first)
    assert via is not None
    stage.act(stage.simulation.administration.join(via, fifth))
    await stage.until(lambda: stage.node(fifth) is not None, "the fifth node has joined")
    await stage.pause(0.5)
    stage.mend(fifth, [first])
    await stage.until(lambda: fifth in via.election._peers.linked, "the leader has a link to it")
    stage.cut(first, rest)

    def votes() -> bool:
        node = stage.node(fifth)
        return node is not None and fifth in via.election.voters and fifth in node.election.voters

    await stage.until(votes, "it votes, as the two know", within_s=2.0)

    def leading() -> list[str]:
        nodes = [stage.node(name) for name in rest]
        return [node.name for node in nodes if node is not None and node.election.is_leader]

    await stage.until(lambda: bool(leading()), "another leads")
    second = leading()[0]
    third = next(name for name in rest if name != second)
    stage.cut(third, [name for name in rest if name != third])
    node = stage.node(second)
    assert node is not None
    # As a coordinator would that does not wait for its claim: csvd's own proposes nothing before that is committed.
    coordinator = node.cluster._coordinator
    assert coordinator is not None
    removal = {"op": "member_remove", "id": first}
    coordinator._propose_alone((None, removal), lambda answers: None, lambda error: None)
    await stage.pause(1.0)
    stage.mend(first, [third])
    stage.mend(fifth, [third])
    await stage.pause(8.0)


def _records_of(name: str, store: Store) -> list[list[tuple[int, bytes]]]:
    """The writes to the record slots that a node has on their way."""
    first = layout.SLOT_OFFSETS[0] // BLOCK_BYTES
    return [
        write.blocks for write in store.under_way if write.disk.process.name == name and write.blocks[0][0] >= first
    ]


def _is_there(store: Store, block: tuple[int, bytes]) -> bool:
    return store.blocks.get(block[0]) == block[1]

"""The choice of paths under random events: only paths that take commands, the best of them, each in its turn."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from initiator.engine.paths import Due, Paths, PathSettings, PathState, Policy
from initiator.scsi.target_ports import AccessState

ACTIVE = {AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED, AccessState.LOGICAL_BLOCK_DEPENDENT}
OPTIONS = PathSettings(retry_first_s=0.25, retry_last_s=4.0, steady_s=8.0, check_interval_s=2.0)
RETRY_LAST_S = OPTIONS.retry_last_s


class PathsUnderEvents(RuleBasedStateMachine):
    """Drives the machine as its driver does; the model beside it knows each path's state and commands."""

    @initialize(policy=st.sampled_from(Policy), count=st.integers(1, 4))
    def begin(self, policy: Policy, count: int) -> None:
        self.now = 0.0
        self.paths = Paths([f"p{index}" for index in range(count)], replace(OPTIONS, policy=policy), 0.0)
        self.policy = policy
        self.state = [PathState.DOWN] * count
        self.access = [AccessState.ACTIVE_OPTIMIZED] * count
        self.preferred = [False] * count
        self.in_flight = [0] * count
        self.pending: dict[int, Due] = {}

    def usable(self) -> list[int]:
        return [i for i, s in enumerate(self.state) if s is PathState.UP and self.access[i] in ACTIVE]

    def rank(self, index: int) -> tuple[int, int]:
        if self.policy is Policy.FAILOVER:
            return index, 0
        if self.policy is Policy.ROUND_ROBIN:
            return 0, 0
        order = [
            AccessState.ACTIVE_OPTIMIZED,
            AccessState.LOGICAL_BLOCK_DEPENDENT,
            AccessState.ACTIVE_NON_OPTIMIZED,
        ]
        return order.index(self.access[index]), not self.preferred[index]

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for index, due in self.paths.due(self.now):
            assert index not in self.pending, "told twice"
            assert (due is Due.CHECK) == (self.state[index] is PathState.UP)
            self.pending[index] = due

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), access=st.sampled_from(AccessState), preferred=st.booleans(), works=st.booleans())
    def what_was_due_is_done(self, data: st.DataObject, access: AccessState, preferred: bool, works: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.pending)))
        if self.pending.pop(index) is Due.LOG_IN:
            self.paths.logging_in(index, self.now)
            if works:
                self.paths.checking(index, self.now)
        if works:
            self.paths.up(index, access, preferred, self.now)
            self.state[index], self.access[index], self.preferred[index] = PathState.UP, access, preferred
        else:
            self.paths.failed(index, "no answer", self.now)
            self.state[index] = PathState.DOWN

    @precondition(lambda self: PathState.UP in self.state)
    @rule(data=st.data(), access=st.sampled_from([*AccessState, None]))
    def something_happens_to_a_path(self, data: st.DataObject, access: AccessState | None) -> None:
        index = data.draw(st.sampled_from([i for i, s in enumerate(self.state) if s is PathState.UP]))
        if access is None:
            self.paths.failed(index, "cut", self.now)
            self.state[index] = PathState.DOWN
            self.pending.pop(index, None)
        else:
            self.paths.access_is(index, access, self.now)
            self.access[index] = access

    @rule(count=st.integers(1, 12))
    def commands_come(self, count: int) -> None:
        usable = self.usable()
        took = [self.paths.choose() for _ in range(count)]
        if not usable:
            assert took == [None] * count
            return
        best = min(map(self.rank, usable))
        group = [i for i in usable if self.rank(i) == best]
        for index in took:
            assert index in group
            self.in_flight[index] += 1
        if self.policy in (Policy.ALUA, Policy.ROUND_ROBIN):
            shares = [took.count(index) for index in group]
            assert max(shares) - min(shares) <= 1, "one path has more turns than another"

    @rule(data=st.data())
    def a_command_ends(self, data: st.DataObject) -> None:
        busy = [i for i, count in enumerate(self.in_flight) if count]
        if busy:
            index = data.draw(st.sampled_from(busy))
            self.paths.ended(index)
            self.in_flight[index] -= 1

    @invariant()
    def counts_agree_and_no_path_is_forgotten(self) -> None:
        for index, path in enumerate(self.paths):
            assert path.in_flight == self.in_flight[index]
            assert path.state is self.state[index]
            if index in self.pending:
                continue
            assert path.due_s is not None, "nobody looks after this path any more"
            assert path.due_s <= self.now + max(RETRY_LAST_S, OPTIONS.check_interval_s)
        assert self.paths.any_active == bool(self.usable())


PathsUnderEvents.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPathsUnderEvents = PathsUnderEvents.TestCase

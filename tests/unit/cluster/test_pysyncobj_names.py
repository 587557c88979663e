"""The private names of pysyncobj that csvd.cluster relies on; an upgrade that moves one fails here first."""

from __future__ import annotations

import importlib.metadata
import inspect
from types import ModuleType

import pysyncobj.config
import pysyncobj.journal
import pysyncobj.serializer
import pysyncobj.syncobj
import pysyncobj.transport
import pytest

from csvd.cluster.raft_adapters import NoPipe, NoPoller, RaftLog, RaftTransport, Snapshots
from csvd.cluster.raft_instance import load_syncobj
from csvd.cluster.voters import CHANGE

SOURCE = inspect.getsource(pysyncobj.syncobj)


def test_the_release_is_the_one_whose_source_was_read() -> None:
    assert importlib.metadata.version("pysyncobj") == "0.3.17"


@pytest.mark.parametrize(
    "name", ["createJournal", "Serializer", "createPoller", "PipeNotifier", "monotonicTime", "random", "logger"]
)
def test_a_collaborator_that_is_replaced_is_a_global_of_the_module(name: str) -> None:
    assert hasattr(pysyncobj.syncobj, name)
    assert pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED


@pytest.mark.parametrize(
    "text",
    [
        "self.__raftLog = createJournal(self.__conf.journalFile)",
        "self.__serializer = Serializer(",
        "self._poller = createPoller(self.__conf.pollerType)",
        "self.__pipeNotifier = PipeNotifier(self._poller)",
        "random.random()",
        "return self._idToMethod[funcID](*args, **kwargs)",
        "res = self.__doApplyCommand(entry[0])",
        "self.__serializer.serialize((data, lastAppliedEntries[1], lastAppliedEntries[0], cluster), ",
        "logger.exception('failed to load full dump')",
        "logger.critical(\n                            'truncating already-applied log entries",
    ],
)
def test_a_collaborator_is_used_as_csvd_expects(text: str) -> None:
    assert text in SOURCE


@pytest.mark.parametrize(
    "name",
    [
        "_SyncObj__doApplyCommand",
        "_SyncObj__parseChangeClusterRequest",
        "_SyncObj__loadDumpFile",
        "_SyncObj__getCurrentLogIndex",
        "_SyncObj__setState",
        "_applyCommand",
        "_getLeader",
        "_isLeader",
        "doTick",
        "forceLogCompaction",
        "raftCommitIndex",
        "raftCurrentTerm",
        "raftLastApplied",
    ],
)
def test_a_method_that_is_called_or_replaced_is_there(name: str) -> None:
    assert hasattr(pysyncobj.syncobj.SyncObj, name)


@pytest.mark.parametrize(
    "name",
    [
        "__noopIDx",
        "__raftElectionDeadline",
        "__newAppendEntriesTime",
        "__raftState",
        "__raftLastApplied",
        "__raftLeader",
        "__otherNodes",
        "__readonlyNodes",
        "__raftNextIndex",
        "__raftMatchIndex",
        "__lastResponseTime",
    ],
)
def test_an_attribute_that_is_read_or_set_is_assigned_by_the_constructor(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(pysyncobj.syncobj.SyncObj.__init__)


def test_majorities_are_counted_over_the_other_nodes_and_this_one() -> None:
    """csvd.cluster.raft_peers sets these nodes, with one that never answers where this node is not to be counted."""
    assert SOURCE.count("self.__votesCount > (len(self.__otherNodes) + 1) / 2") == 2
    assert SOURCE.count("if count <= (len(self.__otherNodes) + 1) / 2:") == 2
    assert SOURCE.count("count = 1\n") == 2
    assert "self.__raftMatchIndex[node] >= commitIdx" in SOURCE
    assert "self.__lastResponseTime[node] > deadline" in SOURCE


def test_the_log_is_sent_to_those_who_vote_and_those_who_learn_if_they_are_connected() -> None:
    assert (
        "for node in self.__otherNodes | self.__readonlyNodes:\n            if node not in self.__connectedNodes:"
        in SOURCE
    )
    assert SOURCE.count("self.__otherNodes | self.__readonlyNodes") == 2


def test_a_node_stands_for_election_when_its_deadline_is_past_and_at_no_other_time() -> None:
    assert SOURCE.count("__setState(_RAFT_STATE.CANDIDATE)") == 1
    assert "if self.__raftElectionDeadline < monotonicTime() and self.__connectedToAnyone():" in SOURCE


def test_what_leaves_the_log_leaves_it_by_these_methods_only() -> None:
    """Where the log changes, the voters may: csvd.cluster.raft_adapters hears of each."""
    changing = {name for name in _calls_of("self.__raftLog.") if name not in ("_destroy", "onOneSecondTimer")}
    assert {name for name in changing if not name.startswith(("get", "set"))} == {
        "add",
        "clear",
        "deleteEntriesFrom",
        "deleteEntriesTo",
    }


def test_nothing_else_is_critical_to_pysyncobj_than_what_csvd_prevents() -> None:
    assert SOURCE.count("logger.critical(") == 1


def test_the_numbers_of_states_commands_and_results_are_as_csvd_has_them() -> None:
    assert (pysyncobj.syncobj._RAFT_STATE.CANDIDATE, pysyncobj.syncobj._RAFT_STATE.LEADER) == (1, 2)
    assert pysyncobj.syncobj._RAFT_STATE.FOLLOWER == 0
    assert pysyncobj.syncobj._COMMAND_TYPE.REGULAR == 0
    assert pysyncobj.syncobj._COMMAND_TYPE.NO_OP == 1
    assert pysyncobj.syncobj._COMMAND_TYPE.MEMBERSHIP == CHANGE == 2
    assert pysyncobj.config.FAIL_REASON.SUCCESS == 0
    assert pysyncobj.config.SERIALIZER_STATE.NOT_SERIALIZING == 0
    assert pysyncobj.config.SERIALIZER_STATE.SUCCESS == 2


@pytest.mark.parametrize(
    ("theirs", "ours", "left_out"),
    [
        (pysyncobj.journal.Journal, RaftLog, set()),
        (pysyncobj.serializer.Serializer, Snapshots, set()),
        # These are called by a program, or by the membership changes that are switched off; never by Raft itself.
        (
            pysyncobj.transport.Transport,
            RaftTransport,
            {
                "waitReady",
                "addNode",
                "dropNode",
                "_onMessageReceived",
                "_onNodeConnected",
                "_onNodeDisconnected",
                "_onReadonlyNodeConnected",
                "_onReadonlyNodeDisconnected",
            },
        ),
    ],
)
def test_an_adapter_has_every_method_of_what_it_stands_for(theirs: type, ours: type, left_out: set[str]) -> None:
    wanted = {name: method for name, method in vars(theirs).items() if inspect.isfunction(method)}
    for name in set(wanted) - left_out - {"__init__"}:
        mine = getattr(ours, name, None)
        assert mine is not None, name
        assert len(inspect.signature(mine).parameters) == len(inspect.signature(wanted[name]).parameters), name


def test_the_poller_and_the_pipe_are_used_by_these_methods_only() -> None:
    assert sorted(set(_calls_of("self._poller."))) == ["poll"]
    assert sorted(set(_calls_of("self.__pipeNotifier."))) == ["notify"]
    NoPipe(NoPoller()).notify()


def _calls_of(prefix: str) -> list[str]:
    return [part.split("(")[0] for part in SOURCE.split(prefix)[1:]]


def test_an_instance_of_the_module_has_globals_of_its_own() -> None:
    mine: ModuleType = load_syncobj("pysyncobj._csvd_test")
    mine.createJournal = None  # type: ignore[attr-defined]
    assert pysyncobj.syncobj.createJournal is not None
    assert mine.SyncObj is not pysyncobj.syncobj.SyncObj


def test_every_message_that_pysyncobj_sends_is_known() -> None:
    """A new kind of message would be dropped by csvd: it must be looked at first."""
    kinds = {part.split("'")[0] for part in SOURCE.split("'type': '")[1:]}
    assert kinds == {
        "request_vote",
        "response_vote",
        "append_entries",
        "next_node_idx",
        "apply_command",
        "apply_command_response",
        "timeout_now",
    }

"""The steps of a script, and how hypothesis draws them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from csvd.iscsi.codes import TaskAttribute, TaskManagementFunction

BLOCK_BYTES = 512
DISK_BLOCKS = 4096
HOSTS = 2


class Transfer(NamedTuple):
    """A READ or a WRITE. ``immediate_bytes`` as far as the session allows them; ``surplus_bytes`` is what the initiator
    expects beyond what the CDB says."""

    host: int
    write: bool
    block: int
    blocks: int
    long: bool
    attribute: int
    fua: bool
    immediate_bytes: int
    unsolicited: bool
    surplus_bytes: int
    urgent: bool


class Ask(NamedTuple):
    """A command without a range."""

    host: int
    what: str


class Ping(NamedTuple):
    host: int
    size: int
    urgent: bool


class Manage(NamedTuple):
    """A task management function; ``which`` picks the task that ABORT TASK is for."""

    host: int
    function: int
    which: int
    urgent: bool


class Swap(NamedTuple):
    """The next two commands of a host come in the wrong order of CmdSN."""

    host: int


class Push(NamedTuple):
    """So many bytes of what a host has to say reach the target, which has a turn then; 0: all."""

    host: int
    size: int


class Finish(NamedTuple):
    """The disk ends one of the jobs it is at; before the loop comes to its answer, more may come from a host."""

    which: int
    turn: bool


class Warm(NamedTuple):
    """From now on the disk has a range at hand, or not."""

    block: int
    blocks: int
    warm: bool


class Exist(NamedTuple):
    """The logical unit is removed, or comes back."""

    present: bool


class Resize(NamedTuple):
    blocks: int


class Listen(NamedTuple):
    """A host reads its socket from now on, or does not."""

    host: int
    reads: bool


class Cut(NamedTuple):
    """The connection of a host breaks."""

    host: int


Step: TypeAlias = Transfer | Ask | Ping | Manage | Swap | Push | Finish | Warm | Exist | Resize | Listen | Cut


class Manner(NamedTuple):
    """What a host negotiates, and how its socket is."""

    initial_r2t: bool = False
    immediate_data: bool = True
    first_burst: int = 65536
    max_burst: int = 262144
    segment: int = 65536
    out_segment: int = 65536
    """What it puts into one Data-Out."""
    header_digest: bool = False
    data_digest: bool = False
    socket_bytes: int = 1 << 20


ASKS = {
    "test unit ready": (bytes(16), 0),
    "inquiry": (b"\x12\0\0\0\x60" + bytes(11), 96),
    "read capacity": (b"\x9e\x10" + bytes(11) + b"\x20\0\0", 32),
    "report luns": (b"\xa0" + bytes(8) + b"\x40" + bytes(6), 64),
    "synchronize cache": (b"\x35" + bytes(15), 0),
    "reserve": (b"\x16" + bytes(15), 0),
    "release": (b"\x17" + bytes(15), 0),
    "no such command": (b"\xff" + bytes(15), 0),
}

PEACEFUL_ASKS = ("test unit ready", "inquiry", "read capacity", "report luns", "synchronize cache", "no such command")
ABORTS = (
    TaskManagementFunction.ABORT_TASK,
    TaskManagementFunction.ABORT_TASK_SET,
    TaskManagementFunction.CLEAR_TASK_SET,
    TaskManagementFunction.LOGICAL_UNIT_RESET,
    TaskManagementFunction.TARGET_WARM_RESET,
)

_hosts = st.integers(0, HOSTS - 1)
# Few blocks, so that commands meet; and some at the very end, and beyond it.
_places = st.sampled_from((*range(25), *range(25), *range(DISK_BLOCKS - 4, DISK_BLOCKS + 1)))
_lengths = st.sampled_from((*range(1, 9), *range(9), 16, 20, 32, 33, 64, 70, 128, 200, 300, 512, 600, 1100))
_surplus = st.sampled_from((0, 0, 0, 0, 0, 0, 512, -512, 4096, -100, 100))


def transfers(*, most_blocks: int = 1100) -> SearchStrategy[Any]:
    """READs and WRITEs of all kinds."""
    return st.builds(
        Transfer,
        host=_hosts,
        write=st.booleans(),
        block=_places,
        blocks=_lengths.map(lambda blocks: min(blocks, most_blocks)),
        long=st.booleans(),
        attribute=st.sampled_from(
            (TaskAttribute.SIMPLE,) * 8 + (TaskAttribute.UNTAGGED, TaskAttribute.ORDERED, TaskAttribute.HEAD_OF_QUEUE)
        ),
        fua=st.sampled_from((False,) * 7 + (True,)),
        immediate_bytes=st.sampled_from((1 << 20, 1 << 20, 1 << 20, 0, 512, 700, 4096)),
        unsolicited=st.booleans(),
        surplus_bytes=_surplus,
        urgent=st.sampled_from((False,) * 9 + (True,)),
    )


def plain_transfers() -> SearchStrategy[Any]:
    """READs and WRITEs as most are: in turn, with all their data, of a few blocks."""
    return st.builds(
        Transfer,
        host=_hosts,
        write=st.booleans(),
        block=_places,
        blocks=st.sampled_from((1, 1, 2, 4, 8, 8, 16, 32)),
        long=st.booleans(),
        attribute=st.sampled_from((TaskAttribute.SIMPLE,) * 7 + (TaskAttribute.ORDERED,)),
        fua=st.just(False),
        immediate_bytes=st.just(1 << 20),
        unsolicited=st.just(False),
        surplus_bytes=st.just(0),
        urgent=st.just(False),
    )


_pings = st.builds(Ping, _hosts, st.sampled_from((0, 0, 4, 33, 500)), st.booleans())
_pushes = st.builds(Push, _hosts, st.sampled_from((0, 0, 0, 1, 20, 47, 48, 49, 200, 1500, 5000, 40000)))
_finishes = st.builds(Finish, st.integers(0, 20), st.booleans())
_warmths = st.builds(Warm, _places, st.integers(1, 60), st.booleans())
_manages = st.builds(Manage, _hosts, st.sampled_from(ABORTS), st.integers(0, 8), st.booleans())
_sizes = st.sampled_from((DISK_BLOCKS, DISK_BLOCKS - 8, 20, DISK_BLOCKS // 2)).map(Resize)


def peaceful(*, most_blocks: int = 1100) -> SearchStrategy[list[Step]]:
    """Scripts in which nothing happens whose answers depend on who was faster."""
    weights: list[tuple[int, SearchStrategy[Any]]] = [
        (7, transfers(most_blocks=most_blocks)),
        (10, plain_transfers()),
        (2, _pings),
        (2, st.builds(Ask, _hosts, st.sampled_from(PEACEFUL_ASKS))),
        (1, st.builds(Swap, _hosts)),
        (1, st.builds(Listen, _hosts, st.booleans())),
        (4, _pushes),
        (3, _finishes),
        (2, _warmths),
    ]
    return _script(weights)


def eventful(*, most_blocks: int = 1100) -> SearchStrategy[list[Step]]:
    """Scripts in which anything happens."""
    weights: list[tuple[int, SearchStrategy[Any]]] = [
        (12, transfers(most_blocks=most_blocks)),
        (24, plain_transfers()),
        (3, _pings),
        (2, st.builds(Ask, _hosts, st.sampled_from(PEACEFUL_ASKS))),
        (4, st.builds(Ask, _hosts, st.sampled_from(("reserve", "release")))),
        (2, st.builds(Swap, _hosts)),
        (2, st.builds(Listen, _hosts, st.booleans())),
        (8, _pushes),
        (6, _finishes),
        (4, _warmths),
        (3, _manages),
        (3, _sizes),
        (2, st.builds(Exist, st.booleans())),
        (1, st.builds(Cut, _hosts)),
    ]
    return _script(weights)


def _script(weights: list[tuple[int, SearchStrategy[Any]]]) -> SearchStrategy[list[Step]]:
    """One that begins with what takes the unit attention condition of power on, or most of it would go to that."""
    kinds = st.sampled_from([kind for weight, kind in weights for _ in range(weight)])
    steps: SearchStrategy[list[Step]] = st.lists(kinds.flatmap(lambda kind: kind), min_size=20, max_size=80)
    return steps.map(lambda drawn: [*_OPENING, *drawn])


_OPENING: list[Step] = [step for host in range(HOSTS) for step in (Ask(host, "test unit ready"), Push(host, 0))]


def manners() -> SearchStrategy[Manner]:
    """What a host may negotiate."""
    return st.builds(
        Manner,
        initial_r2t=st.booleans(),
        immediate_data=st.sampled_from((True,) * 5 + (False,)),
        first_burst=st.sampled_from((65536, 65536, 4096, 512)),
        max_burst=st.sampled_from((262144, 262144, 8192)),
        segment=st.sampled_from((65536, 262144, 4096, 512)),
        out_segment=st.sampled_from((262144, 8192, 3000, 512)),
        header_digest=st.sampled_from((False,) * 5 + (True,)),
        data_digest=st.sampled_from((False,) * 5 + (True,)),
        socket_bytes=st.sampled_from((1 << 20, 1 << 20, 4096)),
    )

"""The keys for secrets on shared disks: had by members alone, stored before they are used, asked for where missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from csvd.cluster.data_keys import MAXIMUM_KEYS, DataKeys, NoDataKey, id_of_key
from csvd.cluster.errors import ClusterError, PeerUnreachable
from csvd.cluster.register_members import Member
from csvd.errors import ConfigError
from tests.unit.cluster.registers import register_of

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32


def now(coroutine: Any) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


class Holders:
    """The members n1, n2 and n3, as n1 sees them."""

    def __init__(self) -> None:
        self.node = "n1"
        self.register = register_of("n1", "n2", "n3")
        self.linked = {"n2", "n3"}
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.handler: Any = None

    @property
    def members(self) -> Mapping[str, Member]:
        return self.register.members

    def is_linked(self, node: str) -> bool:
        return node in self.linked

    def serve(self, method: str, handler: Any) -> None:
        self.handler = handler

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.asked.append(node)
        if node not in self.answers:
            raise PeerUnreachable("it does not answer", where=node)
        return {"key": self.answers[node]}


class Stored:
    """What is durable."""

    def __init__(self) -> None:
        self.keys: Sequence[bytes] = ()
        self.error: ConfigError | None = None

    def __call__(self, keys: Sequence[bytes]) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.keys = list(keys)
        return succeed(None)


def test_a_key_is_stored_before_it_is_there_and_current_when_it_is_used() -> None:
    stored = Stored()
    keys = DataKeys([OLD], store=stored)
    assert keys.current == id_of_key(OLD)
    new = now(keys.add(NEW))
    assert (keys.current, keys.key(new), stored.keys) == (id_of_key(OLD), NEW, [OLD, NEW])
    now(keys.use(new))
    assert (keys.current, stored.keys) == (new, [NEW, OLD])
    now(keys.keep_only([]))
    assert (keys.ids, stored.keys) == ((new,), [NEW])
    stored.error = ConfigError("the disk is full")
    with pytest.raises(ConfigError):
        now(keys.add(OTHER))
    assert keys.ids == (new,)


def test_there_are_so_many_keys_and_each_has_32_bytes() -> None:
    keys = DataKeys([bytes([number]) * 32 for number in range(MAXIMUM_KEYS)])
    with pytest.raises(ClusterError, match="8 keys already"):
        now(keys.add(NEW))
    assert now(keys.add(bytes(32))) == keys.current, "one that is there is no further one"
    with pytest.raises(ConfigError, match="16 bytes"):
        DataKeys([bytes(16)])


def test_an_id_tells_nothing_of_its_key() -> None:
    assert len(id_of_key(OLD)) == 16
    assert id_of_key(OLD) != id_of_key(NEW)
    assert OLD.hex()[:16] not in id_of_key(OLD)


def test_a_key_that_is_missing_is_asked_for_at_the_one_that_has_it_first_then_at_the_others() -> None:
    holders = Holders()
    keys = DataKeys([OLD], holders=holders)
    holders.answers = {"n3": NEW.hex()}
    now(keys.fetch(id_of_key(NEW), "n3"))
    assert (holders.asked, keys.key(id_of_key(NEW))) == (["n3"], NEW)
    now(keys.fetch(id_of_key(NEW), "n3"))
    assert holders.asked == ["n3"]
    holders.answers = {"n2": OTHER.hex()}
    now(keys.fetch(id_of_key(OTHER), "n3"))
    assert holders.asked[1:] == ["n3", "n2"]


@pytest.mark.parametrize("answer", [OTHER.hex(), "", "no key", NEW.hex()[:-2], None, 7])
def test_what_is_not_the_key_that_was_asked_for_is_not_taken(answer: object) -> None:
    holders = Holders()
    keys = DataKeys([OLD], holders=holders)
    holders.answers = {"n2": answer}
    with pytest.raises(NoDataKey):
        now(keys.fetch(id_of_key(NEW)))
    assert keys.ids == (id_of_key(OLD),)


def test_nobody_is_asked_without_a_link() -> None:
    holders = Holders()
    holders.linked = set()
    with pytest.raises(NoDataKey):
        now(DataKeys([OLD], holders=holders).fetch(id_of_key(NEW)))
    assert holders.asked == []
    with pytest.raises(NoDataKey):
        now(DataKeys([OLD]).fetch(id_of_key(NEW)))


def test_a_key_is_given_to_members_alone() -> None:
    holders = Holders()
    DataKeys([OLD], holders=holders)
    assert now(holders.handler("n2", {"id": id_of_key(OLD)})) == {"key": OLD.hex()}
    for params in ({"id": id_of_key(NEW)}, {}, {"id": None}, {"id": ["x"]}):
        with pytest.raises(NoDataKey):
            now(holders.handler("n2", params))
    holders.register.apply({"op": "member_remove", "id": "n2"})
    with pytest.raises(NoDataKey):
        now(holders.handler("n2", {"id": id_of_key(OLD)}))

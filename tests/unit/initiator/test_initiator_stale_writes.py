from __future__ import annotations

from initiator.engine.stale_writes import StaleWrites


def test_a_write_left_behind_holds_what_overlaps_it_until_its_nexus_is_over() -> None:
    stale = StaleWrites()
    stale.left_behind(3, "a", (10, 20), 0.0)
    assert stale.hold((19, 21))
    assert not stale.hold((20, 30))
    assert not stale.proven_over(4)
    assert stale.hold((19, 21))
    assert stale.proven_over(3)
    assert not stale.hold((19, 21))


def test_what_writes_nothing_is_never_stale() -> None:
    stale = StaleWrites()
    stale.left_behind(1, "a", (0, 0), 0.0)
    assert not len(stale)
    stale.left_behind(1, "b", (0, 5), 0.0)
    assert not stale.hold((0, 0))


def test_a_call_need_not_wait_for_itself_but_for_others() -> None:
    stale = StaleWrites()
    stale.left_behind(1, "a", (0, 5), 0.0)
    assert stale.hold((0, 5))
    assert not stale.hold((0, 5), apart_from="a")
    stale.left_behind(1, "b", (4, 6), 0.0)
    assert stale.hold((0, 5), apart_from="a")


def test_without_a_limit_a_stale_write_is_never_forgotten() -> None:
    stale = StaleWrites()
    stale.left_behind(1, "a", (0, 5), 0.0)
    assert stale.next_expiry_s() is None
    assert not stale.expire(1e9)
    assert len(stale) == 1


def test_with_a_limit_each_is_forgotten_when_its_time_is_over() -> None:
    stale = StaleWrites(5.0)
    stale.left_behind(1, "a", (0, 5), 0.0)
    stale.left_behind(2, "b", (0, 5), 3.0)
    assert stale.next_expiry_s() == 5.0
    assert not stale.expire(4.9)
    assert [write.call for write in stale.expire(5.0)] == ["a"]
    assert stale.nexuses() == {2}
    assert stale.next_expiry_s() == 8.0

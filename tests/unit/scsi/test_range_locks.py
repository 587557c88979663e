"""Claims on ranges of a disk: who waits for whom, and who does not."""

from __future__ import annotations

from csvd.scsi.range_locks import Claim, Claims, RangeLocks


class Story:
    """Claims by name, and the order in which they were granted."""

    def __init__(self) -> None:
        self.locks = RangeLocks()
        self.granted: list[str] = []
        self.claims: dict[str, Claims] = {}

    def ask(self, name: str, offset: int, length: int, *, exclusive: bool = False) -> None:
        self.ask_for(name, Claim(self.locks, offset, length, exclusive))

    def ask_for(self, name: str, *claims: Claim) -> None:
        self.claims[name] = Claims(claims)
        self.claims[name].acquire(lambda: self.granted.append(name))

    def end(self, name: str) -> None:
        self.claims.pop(name).release()


def test_readers_and_writers_share_the_same_range() -> None:
    story = Story()
    story.ask("a", 0, 10)
    story.ask("b", 0, 10)
    assert story.granted == ["a", "b"]
    assert not story.locks.contended


def test_an_exclusive_claim_waits_for_what_is_under_way_and_later_ones_wait_for_it() -> None:
    story = Story()
    story.ask("write", 0, 10)
    story.ask("compare", 5, 10, exclusive=True)
    story.ask("read", 8, 1)
    assert story.granted == ["write"]
    story.end("write")
    assert story.granted == ["write", "compare"]
    story.end("compare")
    assert story.granted == ["write", "compare", "read"]
    story.end("read")
    assert not story.locks.contended
    assert not story.locks.held
    assert not story.locks.waiting


def test_ranges_that_only_touch_do_not_meet() -> None:
    story = Story()
    story.ask("compare", 10, 10, exclusive=True)
    story.ask("before", 0, 10)
    story.ask("behind", 20, 10)
    assert story.granted == ["compare", "before", "behind"]
    assert story.locks.must_wait(19, 1)
    assert not story.locks.must_wait(20, 1)
    assert not story.locks.must_wait(9, 1)


def test_one_that_waits_can_take_its_claim_back() -> None:
    story = Story()
    story.ask("write", 0, 10)
    story.ask("compare", 0, 10, exclusive=True)
    story.ask("read", 0, 10)
    story.end("compare")
    assert story.granted == ["write", "read"]
    assert not story.locks.contended


def test_claims_on_two_disks_are_granted_together_and_in_whatever_order_they_name_them() -> None:
    story = Story()
    other = RangeLocks()
    story.ask_for("first", Claim(story.locks, 0, 10, True), Claim(other, 0, 10, True))
    story.ask_for("second", Claim(other, 0, 10, True), Claim(story.locks, 0, 10, True))
    story.ask_for("third", Claim(other, 5, 1, False))
    assert story.granted == ["first"]
    story.end("first")
    assert story.granted == ["first", "second"]
    story.end("second")
    assert story.granted == ["first", "second", "third"]


def test_one_command_may_claim_ranges_of_one_disk_that_meet_each_other() -> None:
    story = Story()
    story.ask_for("copy", Claim(story.locks, 0, 10, False), Claim(story.locks, 5, 10, True))
    assert story.granted == ["copy"]
    story.end("copy")
    assert not story.locks.contended


def test_what_ends_as_soon_as_it_is_granted_lets_the_next_ones_go() -> None:
    story = Story()
    story.ask("write", 0, 10)
    short = Claims((Claim(story.locks, 0, 10, True),))

    def granted() -> None:
        story.granted.append("short")
        short.release()

    short.acquire(granted)
    story.ask("read", 0, 1)
    story.end("write")
    assert story.granted == ["write", "short", "read"]


def test_a_thousand_that_end_as_soon_as_they_are_granted_follow_one_another() -> None:
    locks = RangeLocks()
    first = Claims((Claim(locks, 0, 512, True),))
    first.acquire(lambda: None)
    ended: list[int] = []

    def ask(number: int) -> None:
        claims = Claims((Claim(locks, 0, 512, True),))

        def granted() -> None:
            ended.append(number)
            claims.release()

        claims.acquire(granted)

    for number in range(1000):
        ask(number)
    first.release()
    assert ended == list(range(1000))
    assert not locks.contended
    assert not locks.waiting


class CountedRange(int):
    """An offset that counts the comparisons it takes part in."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        CountedRange.compared += 1
        return int(self) < other


def test_shared_claims_are_not_compared_with_one_another() -> None:
    locks = RangeLocks()
    CountedRange.compared = 0
    apart = Claims((Claim(locks, 1 << 40, 512, True),))
    apart.acquire(lambda: None)
    unmaps = [Claims([Claim(locks, CountedRange(4096 * index), 512, False) for index in range(256)]) for _ in range(64)]
    for claims in unmaps:
        claims.acquire(lambda: None)
    for claims in unmaps:
        claims.release()
    assert CountedRange.compared <= 64 * 256


def test_the_end_of_a_shared_claim_lets_an_exclusive_one_go_that_stood_behind_it() -> None:
    story = Story()
    story.ask("long", 100, 10, exclusive=True)
    story.ask("behind long", 100, 10)
    story.ask("write", 0, 10)
    story.ask("compare", 0, 10, exclusive=True)
    story.ask("behind compare", 0, 10)
    story.end("write")
    assert story.granted == ["long", "write", "compare"]
    story.end("compare")
    assert story.granted == ["long", "write", "compare", "behind compare"]
    story.end("long")
    assert story.granted[-1] == "behind long"


def test_what_is_shared_at_once_holds_up_an_exclusive_claim_as_any_other() -> None:
    story = Story()
    shared = story.locks.share(0, 10)
    other = story.locks.share(100, 10)
    story.ask("compare", 5, 10, exclusive=True)
    assert story.granted == []
    other.release()
    assert story.granted == []
    shared.release()
    assert story.granted == ["compare"]
    story.end("compare")
    assert not story.locks.held
    assert not story.locks.contended

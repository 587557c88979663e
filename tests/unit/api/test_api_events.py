"""The ring of events: numbered, bounded, honest about what it forgot."""

from __future__ import annotations

from csvd.api.events import MAX_TEXT_CHARACTERS, EventRing


def ring(kept: int = 4) -> EventRing:
    return EventRing(now_s=iter(range(100, 1000)).__next__, kept=kept)


def test_events_are_numbered_from_one_and_carry_their_time() -> None:
    events = ring()
    first = events.add("election", "node1 is the coordinator", subject="node1")
    assert (first.number, first.time_s) == (1, 101)
    answer = events.after(0)
    assert answer["events"] == [
        {"number": 1, "time_s": 101, "kind": "election", "text": "node1 is the coordinator", "subject": "node1"}
    ]
    assert (answer["last"], answer["lost"], answer["began_s"]) == (1, 0, 100)


def test_only_events_after_the_number_are_given_oldest_first() -> None:
    events = ring()
    for number in range(1, 5):
        events.add("k", str(number))
    assert [event["text"] for event in events.after(2)["events"]] == ["3", "4"]
    assert events.after(4) == {"events": [], "last": 4, "lost": 0, "began_s": 100}


def test_the_oldest_go_and_that_is_told() -> None:
    events = ring(kept=3)
    for number in range(1, 11):
        events.add("k", str(number))
    answer = events.after(2)
    assert [event["number"] for event in answer["events"]] == [8, 9, 10]
    assert answer["lost"] == 5
    assert events.after(7)["lost"] == 0


def test_many_events_are_given_a_part_at_a_time() -> None:
    events = ring(kept=10)
    for number in range(1, 11):
        events.add("k", str(number))
    answer = events.after(0, limit=4)
    assert answer["last"] == 4
    assert [event["number"] for event in events.after(answer["last"], limit=4)["events"]] == [5, 6, 7, 8]


def test_a_number_of_an_earlier_run_begins_anew() -> None:
    events = ring()
    events.add("k", "x")
    assert [event["number"] for event in events.after(500)["events"]] == [1]


def test_a_long_text_is_cut() -> None:
    events = ring()
    assert len(events.add("k", "x" * 100_000).text) == MAX_TEXT_CHARACTERS

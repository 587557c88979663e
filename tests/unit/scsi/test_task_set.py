"""Task attributes (SAM-5 8): what may begin before what."""

from __future__ import annotations

from csvd.scsi.task_set import HEAD_OF_QUEUE, ORDERED, SIMPLE, TaskSet


class Story:
    def __init__(self) -> None:
        self.set = TaskSet()
        self.begun: list[str] = []

    def enter(self, name: str, attribute: int) -> None:
        self.set.enter(attribute, lambda: self.begun.append(name))


def test_simple_tasks_begin_at_once_and_leave_the_set_free() -> None:
    story = Story()
    story.enter("a", SIMPLE)
    story.enter("b", SIMPLE)
    assert story.begun == ["a", "b"]
    assert story.set.is_free
    story.set.leave_simple()
    story.set.leave(SIMPLE)
    assert story.set.begun == 0


def test_an_ordered_task_waits_for_all_before_it_and_all_behind_it_wait_for_its_end() -> None:
    story = Story()
    story.enter("a", SIMPLE)
    story.enter("b", SIMPLE)
    story.enter("ordered", ORDERED)
    story.enter("c", SIMPLE)
    story.set.leave_simple()
    assert story.begun == ["a", "b"]
    story.set.leave_simple()
    assert story.begun == ["a", "b", "ordered"]
    assert not story.set.is_free
    story.set.leave(ORDERED)
    assert story.begun == ["a", "b", "ordered", "c"]
    assert story.set.is_free


def test_a_task_at_the_head_of_the_queue_passes_an_ordered_one_that_waits() -> None:
    story = Story()
    story.enter("a", SIMPLE)
    story.enter("ordered", ORDERED)
    story.enter("head", HEAD_OF_QUEUE)
    assert story.begun == ["a", "head"]
    story.set.leave(HEAD_OF_QUEUE)
    story.set.leave_simple()
    assert story.begun == ["a", "head", "ordered"]


def test_two_ordered_tasks_follow_one_another() -> None:
    story = Story()
    story.enter("first", ORDERED)
    story.enter("second", ORDERED)
    assert story.begun == ["first"]
    story.set.leave(ORDERED)
    assert story.begun == ["first", "second"]
    story.set.leave(ORDERED)
    assert story.set.is_free


def test_a_thousand_ordered_tasks_that_end_at_once_follow_one_another() -> None:
    tasks = TaskSet()
    tasks.enter(ORDERED, lambda: None)
    begun: list[int] = []

    def enter(number: int) -> None:
        def begin() -> None:
            begun.append(number)
            tasks.leave(ORDERED)

        tasks.enter(ORDERED, begin)

    for number in range(1000):
        enter(number)
    tasks.leave(ORDERED)
    assert begun == list(range(1000))
    assert tasks.is_free
    assert tasks.begun == 0


def test_nothing_begins_while_it_is_closed_and_all_goes_on_as_its_attributes_have_it() -> None:
    task_set = TaskSet()
    begun: list[str] = []
    task_set.close()
    assert not task_set.is_free
    for attribute, name in ((SIMPLE, "simple"), (ORDERED, "ordered"), (SIMPLE, "behind"), (HEAD_OF_QUEUE, "head")):
        task_set.enter(attribute, lambda name=name: begun.append(name))  # type: ignore[misc]
    assert begun == []
    task_set.open()
    assert begun == ["head", "simple"]
    task_set.leave(SIMPLE)
    task_set.leave(HEAD_OF_QUEUE)
    assert begun == ["head", "simple", "ordered"]
    task_set.leave(ORDERED)
    assert begun[-1] == "behind"
    assert task_set.is_free


def test_what_ends_while_it_is_closed_lets_nobody_begin() -> None:
    task_set = TaskSet()
    begun: list[str] = []
    task_set.enter(SIMPLE, lambda: begun.append("one"))
    task_set.close()
    task_set.enter(SIMPLE, lambda: begun.append("other"))
    task_set.leave_simple()
    assert begun == ["one"]
    task_set.open()
    assert begun == ["one", "other"]

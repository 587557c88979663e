"""Waiting for the last of several things of which each calls back."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def for_each(begin: Sequence[Callable[[Callable[[], None]], None]], done: Callable[[], None]) -> None:
    """Begin all, each with what it calls back, and call back after the last."""
    waiting = len(begin) + 1

    def one_done() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            done()

    for each in begin:
        each(one_done)
    one_done()

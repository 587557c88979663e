"""Those who want to be called back, until they take that back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])


class Listeners(Generic[CallbackT]):
    """To be iterated over and called; one that comes or goes meanwhile counts from the next time on."""

    def __init__(self) -> None:
        self._callbacks: list[CallbackT] = []

    def __iter__(self) -> Iterator[CallbackT]:
        return iter(list(self._callbacks))

    def add(self, callback: CallbackT) -> Callable[[], None]:
        """Call back from now on; gives what ends it. To end it twice is no error."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

"""What :func:`initiator.connect` gives: something on its way, to be awaited or to be entered."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """What is closed by a coroutine."""

    async def close(self) -> None: ...


_Opened = TypeVar("_Opened", bound=Closable)


class Opening(Coroutine[Any, Any, _Opened], Generic[_Opened]):
    """A coroutine that opens something, and an asynchronous context manager that closes it again.

    ``await connect(…)`` gives the thing, as any coroutine does, also in a task or in Deferred.fromCoroutine;
    ``async with connect(…) as disk`` opens it at the beginning of the block and closes it at the end.
    """

    __slots__ = ("_opened", "_work")

    def __init__(self, work: Coroutine[Any, Any, _Opened]) -> None:
        self._work = work
        self._opened: _Opened | None = None

    def __await__(self) -> Generator[Any, Any, _Opened]:
        return self._work.__await__()

    async def __aenter__(self) -> _Opened:
        self._opened = await self._work
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    # What Task and Deferred drive.

    def send(self, value: Any) -> Any:
        """Go on with the opening."""
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        return self._work.throw(*error)

    def close(self) -> None:
        """Give the opening up."""
        self._work.close()

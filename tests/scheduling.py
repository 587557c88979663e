"""How `make test` shares the tests among two processes: one has all that watches real daemons in real time."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

IN_REAL_TIME: Final = ("tests/integration/", "tests/interop/")
"""They run daemons, guests and clusters, and wait for what these do: one after another, so that they have a processor
for themselves. All other tests only compute."""


class RealTimeApart(LoadScopeScheduling):  # type: ignore[misc]
    """One process gets what is in real time, whole; the others get a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "in real time" if path.startswith(IN_REAL_TIME) else path

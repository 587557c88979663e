"""A real reactor for a test of a disk, which hangs where a disk hangs: not for longer than this."""

from __future__ import annotations

from tests.own_reactor import Work, run

TIME_LIMIT_S = 20.0


def run_in_reactor(main: Work, *, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Run `main(reactor)` to its end; raises what it raises, and fails when it takes too long."""
    run(main, time_limit_s=time_limit_s)

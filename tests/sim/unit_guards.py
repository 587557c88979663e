"""How the guards of the logical units that all nodes export are switched off; see tests/sim/guards.py."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final
from unittest import mock

from csvd.cluster.coordination.faces import LIVE
from csvd.scsi.unit_record import Effect, UnitRecord
from csvd.target.cluster_holds import ClusterHolds
from csvd.target.cluster_units import ClusterUnits
from csvd.target.unit_changes import CoordinatedUnit
from tests.sim.units_plan import KINDS, UnitsPlan

Context = contextlib.AbstractContextManager[object]


def _plan(*kinds: str) -> UnitsPlan:
    """Initiators that do mostly this."""
    weights = {kind: 3.0 if kind in kinds else 0.0 if kind.startswith("legacy") else 0.3 for kind in KINDS}
    return UnitsPlan(0.06, weights, 0.5, (1, 5, 7))


RESERVING: Final = _plan("write", "register", "reserve", "preempt")
COUNTING: Final = _plan("write", "count")


def no_wait_at_push() -> Sequence[Context]:
    """A push is answered when the guards refuse by it, whatever is under way."""

    async def take_over(self: Any, naa: str, params: Any) -> None:
        cluster = self._units.get(naa)
        if cluster is not None:
            record = UnitRecord.of(params["record"])
            await self._do(cluster, cluster.take(record, [Effect.of(each) for each in params["effects"]]))

    return [mock.patch.object(ClusterUnits, "_take_over", take_over)]


def no_gate() -> Sequence[Context]:
    """Commands go on when the lease is out."""

    def admits(self: Any) -> bool:
        return True

    async def close(self: Any) -> None:
        return None

    def state_changed(self: Any) -> None:
        if self._session.state == LIVE:
            self._begin_attaching()

    return [
        mock.patch.object(ClusterUnits, "admits", admits),
        mock.patch.object(ClusterUnits, "may_act", admits),
        mock.patch.object(ClusterUnits, "close", close),
        mock.patch.object(ClusterUnits, "_state_changed", state_changed),
    ]


def no_holds() -> Sequence[Context]:
    """The other nodes know nothing of a range that a command has for itself."""

    async def take_ranges(self: Any, name: str, ranges: Any) -> None:
        return None

    return [mock.patch.object(ClusterHolds, "_take_ranges", take_ranges)]


def no_record_kept() -> Sequence[Context]:
    """What was changed is in the memory of the coordinator alone."""

    async def keep(self: Any, office: Any, record: Any, effects: Any, answers: Any) -> None:
        self.record, self.effects = record, (*self.effects, *effects)

    return [mock.patch.object(CoordinatedUnit, "keep", keep)]

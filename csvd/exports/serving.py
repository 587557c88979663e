"""What serves the targets of a node: the daemon itself, or processes under it; and what it is told to serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from csvd.config.schema import Config
from csvd.config.secrets import read_secret_file
from csvd.config.targets import TargetSection
from csvd.exports.build import access_of, discovery_access_of
from csvd.iscsi.access import Access

Json = dict[str, Any]

NOBODY: Final = Access(initiators=frozenset())


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be served.

    Args:
        secrets: what the files hold that the targets name, by their paths.
        discovery_access: who may ask which targets there are.
        discovery_is_said: whether the configuration says so, and not the targets.
        clustered: the names of those targets that all nodes of the cluster serve.
    """

    targets: Sequence[TargetSection] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    discovery_access: Access = field(default=NOBODY, repr=False)
    discovery_is_said: bool = False
    clustered: Collection[str] = ()

    def secret(self, path: Path) -> bytes:
        """What a file holds that a target names."""
        return self.secrets[str(path)]


def plan_of(config: Config) -> Plan:
    """What a configuration says is to be served. Reads its secrets.

    Raises:
        ConfigError: a secret can not be read, or two that must differ are the same.
    """
    secrets: dict[str, bytes] = {}

    def read(path: Path) -> bytes:
        secrets[str(path)] = read_secret_file(path)
        return secrets[str(path)]

    for section in config.target:
        access_of(section, read)
        for lun in section.lun:
            if lun.disk_secret_file is not None:
                read(lun.disk_secret_file)
    return Plan(
        tuple(config.target), secrets, discovery_access_of(config), discovery_is_said=config.discovery is not None
    )


class Serving(Protocol):
    """Serves what it is told to. A change is prepared, which can fail, and then made or abandoned; one at a time.

    What it knows of sessions, statistics and logical units is as of the last `refresh`.
    """

    @property
    def portals(self) -> list[str]:
        """The addresses that initiators are told of."""

    def groups(self) -> dict[int, dict[str, str]]:
        """These addresses by portal group tag and as they are written."""

    async def start(self, plan: Plan) -> list[str]:
        """Serve for the first time; give the addresses. Raises CsvdError; what was opened is closed by `stop`."""

    async def stop(self) -> None:
        """End: what is under way is answered, disks are flushed and closed."""

    async def refresh(self) -> None:
        """Bring what it knows of its processes up to date, as far as they answer."""

    def sessions(self) -> list[Json]:
        """The sessions of all targets, as the control API shows them."""

    def statistics(self) -> Json:
        """What the commands came to, as the control API shows it."""

    def workers(self) -> list[Json]:
        """The processes that serve for this one; none where it serves itself."""

    def unit_face(self, target: str, number: int) -> Json | None:
        """A logical unit as the control API shows it; None where it is not served."""

    async def prepare(self, plan: Plan) -> None:
        """Open what another plan takes. Raises CsvdError; all is as it was then."""

    async def commit(self) -> None:
        """Serve the plan that was prepared, and nothing else."""

    async def abandon(self) -> None:
        """Close what was opened for the plan that was prepared."""

    async def note(self, targets: Sequence[TargetSection]) -> None:
        """What is served is said in other words by now: a file that was resized is to be created with its new size."""

    async def resize(self, target: str, number: int, size_bytes: int | None, *, full: bool) -> None:
        """Give the disk of a logical unit another size, for all logical units over it; see `Units.resize`."""

    async def drop_session(self, target: str, tsih: int, *, grace_s: int) -> bool:
        """End a session, or ask its initiator to log out within ``grace_s`` first; False where there is none."""

"""From a file to a Config: read, check each key, put in the defaults that depend on others, check them together."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from csvd.config.schema import (
    DEFAULT_CLUSTER_ADDRESS,
    ClusterSection,
    Config,
    ControlSection,
    DiscoverySection,
    GuestsSection,
    KeepaliveSection,
)
from csvd.config.secrets import read_secret_file
from csvd.config.sections import Report, read_section
from csvd.config.targets import DEFAULT_PORTAL, AclSection, ChapSection, LunSection, TargetSection, portal_groups
from csvd.errors import ConfigError
from csvd.iscsi.portals import DEFAULT_PORT, EVERYWHERE, GROUPS_PER_NODE, join_address, split_address
from csvd.secret_file import secret_path

MAX_FILE_BYTES: Final = 2**20
MAX_SOCKET_PATH_BYTES: Final = 107
GONE: Final = {"cluster": ("members", "secret_file")}
"""Keys of earlier versions, by their section."""


class ConfigProblems(ConfigError):
    """A configuration with one problem or more.

    Attributes:
        problems: each of them; ``where`` holds the file and the path of the key.
    """

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        self.problems = list(problems)
        first = self.problems[0]
        more = len(self.problems) - 1
        hint = first.hint
        if more:
            hint += f"{'; ' if hint else ''}{more} more {'problem' if more == 1 else 'problems'}: csvd config check"
        super().__init__(first.what, where=first.where, why=first.why, hint=hint)


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration as it was found: TOML, nothing checked.

    Args:
        found: its tables.
        where: its name in errors.
        directory: where its relative paths begin.
    """

    found: Mapping[str, Any]
    where: str
    directory: Path


def load(path: Path) -> Config:
    """Read a configuration file.

    Relative paths in it begin at the directory of the file. Files with secrets are looked at, too.

    Raises:
        ConfigProblems: the file, or what it says, is wrong.
    """
    return complete(read(path))


def parse(text: str, *, where: str, directory: Path) -> Config:
    """Read a configuration.

    Args:
        where: its name in errors.
        directory: where its relative paths begin.

    Raises:
        ConfigProblems: it is not TOML, or what it says is wrong.
    """
    return complete(_source(text, where, directory))


def read(path: Path) -> Source:
    """Read a file, and check nothing but that it is TOML.

    Raises:
        ConfigProblems: it can not be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigProblems([_unreadable(path, error.strerror or "")]) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigProblems([_unreadable(path, f"it has more than {MAX_FILE_BYTES} bytes")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigProblems([_unreadable(path, f"it is not UTF-8 at byte {error.start}")]) from error
    return _source(text, str(path), path.absolute().parent)


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError("can not read the configuration", where=str(path), why=why)


def _source(text: str, where: str, directory: Path) -> Source:
    try:
        return Source(tomllib.loads(text), where, directory)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigProblems([ConfigError("is not TOML", where=where, why=str(error))]) from error


def complete(source: Source, read_secret: Callable[[Path], bytes] = read_secret_file) -> Config:
    """Check every key of a configuration, and put in what was left out.

    Args:
        read_secret: gives what a file with a secret holds; raises ConfigError.

    Raises:
        ConfigProblems: what it says is wrong.
    """
    problems: list[ConfigError] = []

    def report(key: str, error: ConfigError) -> None:
        problems.append(ConfigError(error.what, where=f"{source.where}: {key}", why=error.why, hint=error.hint))

    config = read_section(Config, _without_gone(source.found, report), "", report)
    if config is not None:
        is_one = isinstance(source.found.get("target"), Mapping)
        config = _Completion(config, source.directory, report, read_secret, is_one_target=is_one).complete()
    if problems:
        raise ConfigProblems(problems)
    assert config is not None
    return config


def _without_gone(found: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """What was found without the keys that are no more; each is a problem that tells what is there instead."""
    kept = dict(found)
    for section, keys in GONE.items():
        table = found.get(section)
        if isinstance(table, Mapping):
            kept[section] = {key: value for key, value in table.items() if key not in keys}
            for key in keys:
                if key in table:
                    hint = "take it out; csvd init makes a cluster, and csvd join TOKEN joins one"
                    report(f"{section}.{key}", ConfigError("is no key any more", hint=hint))
    return kept


def check_may_be_clustered(config: Config, *, where: str) -> None:
    """Check that a node may be one of a cluster's as it is configured.

    Args:
        where: the configuration is from.

    Raises:
        ConfigError: it may not.
    """
    if config.node.workers and config.cluster.portals:
        error = _served_by_the_daemon(config.node.workers)
        raise ConfigError(f"node.workers {error.what}", where=where, why=error.why, hint=error.hint)


def _served_by_the_daemon(workers: int) -> ConfigError:
    """Why a node that serves the targets of a cluster has no workers."""
    return ConfigError(
        f"is {workers}, and this node serves the targets of its cluster",
        why="the daemon itself has to serve them: it is what stops in time when the node's lease is out",
        hint="set it to 0; or where this node is to serve targets of its own alone, set cluster.portals = []",
    )


class _Completion:
    """Puts in what depends on other keys, and checks what only together is right or wrong."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        report: Report,
        read_secret: Callable[[Path], bytes],
        *,
        is_one_target: bool,
    ) -> None:
        self._config = config
        self._is_one_target = is_one_target
        self._directory = directory
        self._report = report
        self._read_secret = read_secret

    def complete(self) -> Config:
        node = self._config.node
        state_directory = self._path(node.state_directory, "node.state_directory")
        cluster = self._cluster(self._config.cluster)
        return Config(
            node=replace(node, state_directory=state_directory),
            cluster=cluster,
            control=self._control(self._config.control, state_directory),
            target=self._targets(self._config.target),
            discovery=self._discovery(self._config.discovery),
            keepalive=self._keepalive(self._config.keepalive),
            metrics=self._config.metrics,
            guests=self._guests(self._config.guests, state_directory),
        )

    def _path(self, value: Any, key: str) -> Path:
        try:
            path = secret_path(str(value))
        except ConfigError as error:
            self._report(key, ConfigError(error.what, hint=error.hint))
            return Path(str(value))
        # Not resolve(): a symbolic link is followed when the file is used, not when the configuration is read.
        return Path(os.path.normpath(self._directory / path))

    def _secret(self, path: Path, key: str, least: int, most: int) -> None:
        try:
            secret = self._read_secret(path)
        except ConfigError as error:
            why = f"{path}: {error.what}" + (f": {error.why}" if error.why else "")
            self._report(key, ConfigError("can not be used", why=why, hint=error.hint))
            return
        if not least <= len(secret) <= most:
            self._report(key, ConfigError(f"{path} has {len(secret)} bytes, not {least} to {most}"))

    def _cluster(self, cluster: ClusterSection) -> ClusterSection:
        listen = cluster.listen or DEFAULT_CLUSTER_ADDRESS
        if cluster.advertise is None and split_address(listen)[0] in EVERYWHERE:
            self._report(
                "cluster.advertise",
                ConfigError("is missing", why=f"at {listen} no other node finds this one", hint="name its own address"),
            )
        try:
            cluster.timeouts.to_timeouts()
        except ConfigError as error:
            self._report("cluster.timeouts", error)
        given: Sequence[str] | None = cluster.portals
        if given and self._config.node.workers:
            self._report("node.workers", _served_by_the_daemon(self._config.node.workers))
        portals = (join_address(split_address(listen)[0], DEFAULT_PORT),) if given is None else given
        if len(portals) > GROUPS_PER_NODE:
            self._report("cluster.portals", ConfigError(f"are {len(portals)}, more than {GROUPS_PER_NODE}"))
        secret_file = cluster.disk_secret_file
        if secret_file is not None:
            secret_file = self._path(secret_file, "cluster.disk_secret_file")
            self._secret(secret_file, "cluster.disk_secret_file", 12, 255)
        return replace(
            cluster,
            listen=listen,
            advertise=cluster.advertise or listen,
            portals=tuple(portals),
            disk_secret_file=secret_file,
        )

    def _control(self, control: ControlSection, state_directory: Path) -> ControlSection:
        socket = self._path(control.socket or state_directory / "control.sock", "control.socket")
        length = len(os.fsencode(socket))
        if length > MAX_SOCKET_PATH_BYTES:
            self._report(
                "control.socket",
                ConfigError(
                    f"{socket} has {length} bytes",
                    why=f"the kernel takes at most {MAX_SOCKET_PATH_BYTES} for the path of a Unix socket",
                    hint="set control.socket to a shorter one, as /run/csvd/control.sock",
                ),
            )
        return replace(control, socket=socket)

    def _targets(self, targets: Sequence[TargetSection]) -> tuple[TargetSection, ...]:
        names: set[str] = set()
        completed = []
        for position, target in enumerate(targets):
            path = "target" if self._is_one_target else f"target[{position}]"
            if target.name in names:
                self._report(f"{path}.name", ConfigError(f"is {target.name}, which is taken"))
            names.add(target.name)
            completed.append(self._target(target, path))
        self._portals(completed)
        return tuple(completed)

    def _portals(self, targets: Sequence[TargetSection]) -> None:
        """One socket is in one portal group."""
        tags: dict[str, int] = {}
        for tag, portals in portal_groups(targets).items():
            for portal in portals:
                if tags.setdefault(portal, tag) != tag and not portal.endswith(":0"):
                    self._report(
                        "target.portals",
                        ConfigError(f"{portal} is in the portal groups {tags[portal]} and {tag}"),
                    )

    def _target(self, target: TargetSection, path: str) -> TargetSection:
        tag = target.portal_group_tag or 1
        if any(group.tag == tag for group in target.portal_group) and target.portals:
            self._report(f"{path}.portal_group", ConfigError(f"has the tag {tag}, which that of portals is, too"))
        default = () if target.portal_group else (DEFAULT_PORTAL,)
        if target.redirect is not None and target.redirect.portal_group_tag is None:
            self._check_numeric(target.redirect.address, f"{path}.redirect.address")
        return replace(
            target,
            portals=target.portals or default,
            portal_group_tag=tag,
            chap=self._chap(target.chap, f"{path}.chap"),
            acl=self._acl(target.acl, f"{path}.acl"),
            lun=self._units(target.lun, f"{path}.lun"),
        )

    def _check_numeric(self, address: str, path: str) -> None:
        try:
            ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        except ValueError:
            self._report(
                path,
                ConfigError(
                    f"is {address}, a name",
                    why="a login could go in circles",
                    hint="write an IP address, or set portal_group_tag where it is a portal of this node",
                ),
            )

    def _units(self, units: Sequence[LunSection], path: str) -> tuple[LunSection, ...]:
        numbers: set[int] = set()
        for position, unit in enumerate(units):
            where = f"{path}[{position}]"
            if unit.number in numbers:
                self._report(f"{where}.number", ConfigError(f"is {unit.number}, which is taken"))
            numbers.add(unit.number)
            if unit.physical_block_bytes and unit.physical_block_bytes < unit.block_bytes:
                self._report(
                    f"{where}.physical_block_bytes",
                    ConfigError(f"is {unit.physical_block_bytes}, less than block_bytes, which is {unit.block_bytes}"),
                )
            if unit.create is not None and unit.create % unit.block_bytes:
                self._report(
                    f"{where}.create",
                    ConfigError(f"is {unit.create} bytes, no whole number of {unit.block_bytes}-byte blocks"),
                )
        return tuple(self._unit(unit, f"{path}[{position}]") for position, unit in enumerate(units))

    def _unit(self, unit: LunSection, path: str) -> LunSection:
        secret_file = unit.disk_secret_file
        if secret_file is not None:
            secret_file = self._path(secret_file, f"{path}.disk_secret_file")
            self._secret(secret_file, f"{path}.disk_secret_file", 12, 255)
        return replace(unit, disk=self._disk(unit.disk), disk_secret_file=secret_file)

    def _acl(self, acl: Sequence[AclSection], path: str) -> tuple[AclSection, ...]:
        names: set[str] = set()
        completed = []
        for position, entry in enumerate(acl):
            where = f"{path}[{position}]"
            if entry.initiator in names:
                self._report(f"{where}.initiator", ConfigError(f"is {entry.initiator}, which is there already"))
            names.add(entry.initiator)
            completed.append(replace(entry, chap=self._chap(entry.chap, f"{where}.chap")))
        return tuple(completed)

    def _chap(self, chap: ChapSection | None, path: str) -> ChapSection | None:
        if chap is None:
            return None
        chap = replace(chap, secret_file=self._path(chap.secret_file, f"{path}.secret_file"))
        self._secret(chap.secret_file, f"{path}.secret_file", 12, 255)
        if (chap.mutual_user is None) != (chap.mutual_secret_file is None):
            missing = "mutual_secret_file" if chap.mutual_secret_file is None else "mutual_user"
            self._report(f"{path}.{missing}", ConfigError("is missing", hint="a mutual name and secret go together"))
        elif chap.mutual_secret_file is not None:
            mutual = self._path(chap.mutual_secret_file, f"{path}.mutual_secret_file")
            chap = replace(chap, mutual_secret_file=mutual)
            self._secret(mutual, f"{path}.mutual_secret_file", 12, 255)
            if self._same_secret(chap.secret_file, mutual):
                self._report(
                    f"{path}.mutual_secret_file",
                    ConfigError(
                        "holds the same secret as secret_file",
                        why="who knows how to answer the target could answer for it",
                        hint="make another one: openssl rand -base64 24 > FILE && chmod 600 FILE",
                    ),
                )
        return chap

    def _same_secret(self, one: Path, other: Path) -> bool:
        try:
            return self._read_secret(one) == self._read_secret(other)
        except ConfigError:
            return False

    def _keepalive(self, keepalive: KeepaliveSection) -> KeepaliveSection:
        if keepalive.dead_s <= keepalive.idle_s:
            self._report(
                "keepalive.dead_s",
                ConfigError(f"is {keepalive.dead_s:g} s, not longer than idle_s ({keepalive.idle_s:g} s)"),
            )
        return keepalive

    def _discovery(self, discovery: DiscoverySection | None) -> DiscoverySection | None:
        return None if discovery is None else replace(discovery, chap=self._chap(discovery.chap, "discovery.chap"))

    def _disk(self, url: str) -> str:
        """Give the absolute form of a path; a URL (``iscsi://…``, ``rbd:…``) stays as it is."""
        scheme, colon, _ = url.partition(":")
        if colon and scheme.isascii() and scheme.isalnum():
            return url
        return os.path.normpath(self._directory / url)

    def _guests(self, guests: GuestsSection, state_directory: Path) -> GuestsSection:
        return replace(guests, directory=self._path(guests.directory or state_directory / "guests", "guests.directory"))

"""From a file to a Config: read, check each key, put in the defaults that depend on others, check them together."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from csvd.config.schema import (
    DEFAULT_CLUSTER_ADDRESS,
    ClusterSection,
    Config,
    ControlSection,
    GuestsSection,
    TargetSection,
)
from csvd.config.secrets import CREDENTIALS_VARIABLE, read_secret_file
from csvd.config.sections import Report, read_section
from csvd.errors import ConfigError

MAX_FILE_BYTES: Final = 2**20
MAX_SOCKET_PATH_BYTES: Final = 107
MAX_MEMBERS: Final = 31
"""Raft with more voters gets slower and no safer; the register remembers the commands of 32 nodes."""


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


def load(path: Path) -> Config:
    """Read a configuration file.

    Relative paths in it begin at the directory of the file. Files with secrets are looked at, too.

    Raises:
        ConfigProblems: the file, or what it says, is wrong.
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
    return parse(text, where=str(path), directory=path.absolute().parent)


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError("can not read the configuration", where=str(path), why=why)


def parse(text: str, *, where: str, directory: Path) -> Config:
    """Read a configuration.

    Args:
        where: its name in errors.
        directory: where its relative paths begin.

    Raises:
        ConfigProblems: it is not TOML, or what it says is wrong.
    """
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigProblems([ConfigError("is not TOML", where=where, why=str(error))]) from error
    problems: list[ConfigError] = []

    def report(key: str, error: ConfigError) -> None:
        problems.append(ConfigError(error.what, where=f"{where}: {key}", why=error.why, hint=error.hint))

    config = read_section(Config, found, "", report)
    if config is not None:
        config = _Completion(config, directory, report).complete()
    if problems:
        raise ConfigProblems(problems)
    assert config is not None
    return config


class _Completion:
    """Puts in what depends on other keys, and checks what only together is right or wrong."""

    def __init__(self, config: Config, directory: Path, report: Report) -> None:
        self._config = config
        self._directory = directory
        self._report = report

    def complete(self) -> Config:
        node = self._config.node
        state_directory = self._path(node.state_directory, "node.state_directory")
        cluster = self._cluster(self._config.cluster)
        return Config(
            node=replace(node, state_directory=state_directory),
            cluster=cluster,
            control=self._control(self._config.control, state_directory),
            target=self._target(self._config.target, cluster),
            guests=self._guests(self._config.guests, state_directory),
        )

    def _path(self, value: Any, key: str) -> Path:
        text = str(value)
        variable = f"${{{CREDENTIALS_VARIABLE}}}/"
        if text.startswith(variable):
            credentials = os.environ.get(CREDENTIALS_VARIABLE)
            if not credentials:
                self._report(key, ConfigError(f"the environment has no {CREDENTIALS_VARIABLE}", hint="systemd sets it"))
                return Path(text)
            return Path(credentials, text.removeprefix(variable))
        # Not resolve(): a symbolic link is followed when the file is used, not when the configuration is read.
        return Path(os.path.normpath(self._directory / text))

    def _secret(self, path: Path, key: str, least: int, most: int) -> None:
        try:
            secret = read_secret_file(path)
        except ConfigError as error:
            why = f"{path}: {error.what}" + (f": {error.why}" if error.why else "")
            self._report(key, ConfigError("can not be used", why=why, hint=error.hint))
            return
        if not least <= len(secret) <= most:
            self._report(key, ConfigError(f"{path} has {len(secret)} bytes, not {least} to {most}"))

    def _cluster(self, cluster: ClusterSection) -> ClusterSection:
        name = self._config.node.name
        members = dict(cluster.members)
        listen = cluster.listen or members.get(name) or DEFAULT_CLUSTER_ADDRESS
        if not members:
            members = {name: listen}
        elif name not in members:
            self._report("cluster.members", ConfigError(f"node.name is {name!r}, which is not among them"))
        if len(members) > MAX_MEMBERS:
            self._report("cluster.members", ConfigError(f"are {len(members)}, more than {MAX_MEMBERS}"))
        addresses: dict[str, str] = {}
        for member, address in members.items():
            other = addresses.setdefault(address, member)
            if other != member:
                self._report(f"cluster.members.{member}", ConfigError(f"is {address}, and so is {other}'s"))
        secret_file = cluster.secret_file
        if secret_file is not None:
            secret_file = self._path(secret_file, "cluster.secret_file")
            self._secret(secret_file, "cluster.secret_file", 16, 4096)
        elif len(members) > 1:
            self._report(
                "cluster.secret_file",
                ConfigError("is missing", hint="for one: openssl rand -hex 32 > FILE && chmod 600 FILE"),
            )
        try:
            cluster.timeouts.to_timeouts()
        except ConfigError as error:
            self._report("cluster.timeouts", error)
        return replace(cluster, listen=listen, members=dict(sorted(members.items())), secret_file=secret_file)

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

    def _target(self, target: TargetSection | None, cluster: ClusterSection) -> TargetSection | None:
        if target is None:
            return None
        if not target.lun:
            self._report("target.lun", ConfigError("is missing", hint="a target needs at least one [[target.lun]]"))
        numbers: set[int] = set()
        units = []
        for position, unit in enumerate(target.lun):
            if unit.number in numbers:
                self._report(f"target.lun[{position}].number", ConfigError(f"is {unit.number}, which is taken"))
            numbers.add(unit.number)
            units.append(replace(unit, disk=self._disk(unit.disk)))
        chap = target.chap
        if chap is not None:
            chap = replace(chap, secret_file=self._path(chap.secret_file, "target.chap.secret_file"))
            self._secret(chap.secret_file, "target.chap.secret_file", 12, 255)
        place = [*cluster.members, self._config.node.name].index(self._config.node.name)
        return replace(target, lun=tuple(units), chap=chap, portal_group_tag=target.portal_group_tag or place + 1)

    def _disk(self, url: str) -> str:
        """Give the absolute form of a path; a URL (``iscsi://…``, ``rbd:…``) stays as it is."""
        scheme, colon, _ = url.partition(":")
        if colon and scheme.isascii() and scheme.isalnum():
            return url
        return os.path.normpath(self._directory / url)

    def _guests(self, guests: GuestsSection, state_directory: Path) -> GuestsSection:
        return replace(guests, directory=self._path(guests.directory or state_directory / "guests", "guests.directory"))

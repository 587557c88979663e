"""From sections of the configuration to what the target service takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from csvd.config.load import ConfigProblems
from csvd.config.schema import Config
from csvd.config.secrets import read_secret_file
from csvd.config.sections import read_section
from csvd.config.targets import ACCESS_STATES, AclSection, ChapSection, LunSection, TargetSection
from csvd.errors import ConfigError
from csvd.iscsi.access import Access, InitiatorRule, Network, parse_network
from csvd.iscsi.chap import Credentials, check_secret
from csvd.iscsi.portals import Redirect
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.target_ports import AccessState
from csvd.target.export import Export
from csvd.target.units import UnitSettings

ReadSecret: TypeAlias = Callable[[Path], bytes]
"""Gives what a file with a secret holds; raises ConfigError."""

ACCESS_STATE_OF: Final = dict(
    zip(
        ACCESS_STATES,
        (
            AccessState.ACTIVE_OPTIMIZED,
            AccessState.ACTIVE_NON_OPTIMIZED,
            AccessState.STANDBY,
            AccessState.UNAVAILABLE,
        ),
        strict=True,
    )
)
"""The asymmetric access states by the words that the configuration has for them."""


def export_of(
    section: TargetSection,
    units: Sequence[LogicalUnit],
    read: ReadSecret = read_secret_file,
    *,
    is_clustered: bool = False,
) -> Export:
    """What a section says of a target. Reads its secrets.

    Args:
        is_clustered: whether all nodes of the cluster serve it.

    Raises:
        ConfigError: a secret can not be read, or two that must differ are the same.
    """
    redirect = section.redirect
    return Export(
        name=section.name,
        logical_units=units,
        alias=section.alias,
        access=access_of(section, read),
        portal_group_tags=frozenset(section.groups()),
        redirect=None
        if redirect is None
        else Redirect(redirect.address, permanent=redirect.permanent, portal_group_tag=redirect.portal_group_tag),
        queue_depth=section.queue_depth,
        access_states={tag: ACCESS_STATE_OF[state] for tag, state in section.access_states().items()},
        is_clustered=is_clustered,
    )


def access_of(section: TargetSection, read: ReadSecret = read_secret_file) -> Access:
    """Who may log in to a target.

    Raises:
        ConfigError: a secret can not be read, or two that must differ are the same.
    """
    initiators = None
    if section.initiators is not None or section.acl:
        initiators = frozenset(section.initiators or ())
    return Access(
        credentials=_credentials(section.chap, read) or {},
        initiators=initiators,
        networks=_networks(section.networks),
        proof=_proof(section.chap, read),
        rules={entry.initiator: _rule(entry, read) for entry in section.acl},
    )


def _rule(entry: AclSection, read: ReadSecret) -> InitiatorRule:
    return InitiatorRule(
        credentials=_credentials(entry.chap, read),
        proof=_proof(entry.chap, read),
        networks=_networks(entry.networks),
        portal_group_tags=None if entry.portal_groups is None else frozenset(entry.portal_groups),
        luns=None if entry.luns is None else frozenset(entry.luns),
    )


def _credentials(chap: ChapSection | None, read: ReadSecret) -> dict[str, Credentials] | None:
    return None if chap is None else {chap.user: _secret(chap.user, chap.secret_file, read)}


def _proof(chap: ChapSection | None, read: ReadSecret) -> Credentials | None:
    if chap is None or chap.mutual_user is None or chap.mutual_secret_file is None:
        return None
    return _secret(chap.mutual_user, chap.mutual_secret_file, read)


def _secret(user: str, path: Path, read: ReadSecret) -> Credentials:
    return Credentials(user, check_secret(read(path), str(path)))


def _networks(texts: Sequence[str] | None) -> tuple[Network, ...] | None:
    return None if texts is None else tuple(parse_network(text) for text in texts)


def discovery_access_of(config: Config) -> Access:
    """Who may ask which targets there are: what ``[discovery]`` says, else whoever may log in to a target.

    Raises:
        ConfigError: a secret can not be read.
    """
    discovery = config.discovery
    if discovery is not None:
        return Access(
            credentials=_credentials(discovery.chap, read_secret_file) or {},
            networks=_networks(discovery.networks),
            proof=_proof(discovery.chap, read_secret_file),
        )
    return discovery_access_to([access_of(section) for section in config.target])


def discovery_access_to(accesses: Sequence[Access]) -> Access:
    """Who may ask which targets there are: whoever may log in to one of them."""
    if not all(_demands_chap(access) for access in accesses):
        return Access()
    shared: dict[str, Credentials] = {}
    for access in accesses:
        shared |= access.credentials
    return Access(credentials=shared, rules=_discovery_rules(accesses))


def _demands_chap(access: Access) -> bool:
    """Whether nobody logs in without CHAP."""
    own = [rule.credentials for rule in access.rules.values() if rule.credentials is not None]
    if access.initiators == frozenset() and len(own) == len(access.rules):
        return all(own)
    return bool(access.credentials) and all(own)


def _discovery_rules(accesses: Sequence[Access]) -> dict[str, InitiatorRule]:
    """An initiator with secrets of its own may discover by those of any target."""
    rules: dict[str, InitiatorRule] = {}
    for access in accesses:
        for initiator, rule in access.rules.items():
            if rule.credentials is not None:
                known = rules.get(initiator, InitiatorRule()).credentials or {}
                rules[initiator] = InitiatorRule(credentials={**known, **rule.credentials})
    return rules


def settings_of(
    section: LunSection,
    read: ReadSecret = read_secret_file,
    *,
    may_have_grown: bool = True,
    is_clustered: bool = False,
) -> UnitSettings:
    """What a section says of a logical unit. Reads the secret of its disk.

    Args:
        may_have_grown, is_clustered: see UnitSettings.

    Raises:
        ConfigError: the secret can not be read.
    """
    secret_file = section.disk_secret_file
    return UnitSettings(
        number=section.number,
        disk=section.disk,
        create_bytes=section.create,
        may_have_grown=may_have_grown,
        full=section.provisioning == "full",
        read_only=section.read_only,
        removable=section.removable,
        block_bytes=section.block_bytes,
        physical_block_bytes=section.physical_block_bytes,
        vendor=section.vendor,
        product=section.product,
        revision=section.revision,
        serial=section.serial,
        naa=section.naa,
        direct=section.direct,
        soft_threshold_percent=section.soft_threshold_percent,
        rotation_rate=section.rotation_rate,
        write_cache=section.write_cache,
        maximum_transfer_bytes=section.max_transfer,
        is_clustered=is_clustered,
        disk_secret=None if secret_file is None else read(secret_file),
        disk_initiator_name=section.disk_initiator_name,
        disk_timeout_s=section.disk_timeout_s,
    )


def settings_of_keys(keys: Mapping[str, Any]) -> UnitSettings:
    """What the keys of a section, given as options of a command line, say of a logical unit.

    Raises:
        ConfigProblems: one of them is wrong.
    """
    problems: list[ConfigError] = []

    def report(key: str, error: ConfigError) -> None:
        where = f"--{key.replace('_', '-')}"
        problems.append(ConfigError(error.what, where=where, why=error.why, hint=error.hint))

    section = read_section(LunSection, keys, "", report)
    if section is None:
        raise ConfigProblems(problems)
    return settings_of(section, may_have_grown=False)

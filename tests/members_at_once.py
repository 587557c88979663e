"""Clusters of several members made at once: each has a state directory with its identity and the same first journal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.identity.certificate import NodeIdentity, make_cluster
from csvd.cluster.identity.files import store_identity
from csvd.cluster.names import text_of_address
from csvd.cluster.network import Address
from csvd.cluster.state_directory import StateDirectory


def make_members(
    directories: Mapping[str, Path], addresses: Mapping[str, Address], *, cluster: str = "test"
) -> dict[str, NodeIdentity]:
    """Make the members of a new cluster, none of them running. Nothing secret leaves this host.

    Args:
        directories: the cluster state directory of each by its id; `state_directory / "cluster"` of a daemon.
        addresses: where each listens.
        cluster: its name.

    Returns:
        The identity of each.
    """
    identities = make_cluster(cluster, sorted(addresses), now_s=time.time())
    texts = {node: text_of_address(address) for node, address in addresses.items()}
    fingerprints = {node: [identity.fingerprint] for node, identity in identities.items()}
    for node, directory in directories.items():
        files = StateDirectory(directory)
        try:
            begin_cluster(files, node, founding_members(texts, fingerprints), now_ms=time.time_ns() // 1_000_000)
        finally:
            files.close()
        store_identity(directory, identities[node])
    return identities

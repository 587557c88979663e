"""The guests of the cluster as one node can answer for them."""

from __future__ import annotations

from csvd.api.interfaces import Cluster, Guests, Json


def list_guests(guests: Guests, cluster: Cluster) -> list[Json]:
    """Give all guests. Of one whose node is not reached from here the state is unknown: the register's is older."""
    links = {member["node"]: member["link"] for member in cluster.status()["members"]}
    return [_as_seen(face, links) for face in guests.list_guests()]


def _as_seen(face: Json, links: dict[str, str]) -> Json:
    owner = face["owner"]
    if owner is None or links.get(owner) in ("self", "up"):
        return face
    return face | {"state": "unknown", "reason": f"{owner} is not reached from here"}

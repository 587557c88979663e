"""Daemons share an image."""

from __future__ import annotations

import secrets

import pytest

from tests.integration.shared_disk_suite import Added, SharedDiskSuite
from tests.interop.ceph.cluster import Ceph

pytestmark = pytest.mark.interop


class TestSharedImage(SharedDiskSuite):
    """By the cluster's blocklist."""

    @pytest.fixture
    def added(self, ceph: Ceph) -> Added:
        url = ceph.url(f"shared-{secrets.token_hex(4)}")
        return Added((url, "--create", "64M"), "osd blocklist", "is on the blocklist of the newest map")

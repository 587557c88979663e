"""What tests of real daemons share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.daemon_rig import Daemons


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    """Daemons that end with the test."""
    made = Daemons()
    yield made
    made.close()

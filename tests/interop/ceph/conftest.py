"""A throw-away Ceph for the tests of a run, and images in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.ceph.cluster import Ceph


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A cluster of one storage daemon. Who ends the daemon starts it again."""
    with Ceph() as cluster:
        yield cluster


@pytest.fixture
def new_image(ceph: Ceph) -> Callable[[int], str]:
    """Makes an image of so many bytes that no other test has, and gives its name."""
    return ceph.new_image

"""The guest: booted once, kept from test to test, and left by each as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.guest.kit import kit
from tests.interop.guest.machine import Guest
from tests.interop.guest.open_iscsi import OpenIscsi
from tests.interop.guest.packages import KitFailed


@pytest.fixture(scope="session")
def boot() -> Iterator[Callable[[], Guest]]:
    """Gives the guest; boots one when there is none yet, or the last does not answer any more."""
    booted: list[Guest] = []

    def usable() -> Guest:
        if not booted or not booted[-1].usable:
            while booted:
                booted.pop().end()
            try:
                made = kit()
            except KitFailed as error:
                pytest.fail(f"no guest kit: {error}", pytrace=False)
            booted.append(Guest(made))
        return booted[-1]

    try:
        yield usable
    finally:
        while booted:
            booted.pop().end()


@pytest.fixture
def guest(boot: Callable[[], Guest]) -> Iterator[Guest]:
    """The guest, without sessions, records or mounted file systems of an earlier test."""
    guest = boot()
    guest.succeed("mkdir -p /mnt/disk")
    guest.hush()
    yield guest
    if guest.usable:
        guest.run("umount /mnt/disk 2>/dev/null")
        OpenIscsi(guest).forget_everything()


@pytest.fixture
def initiator(guest: Guest) -> OpenIscsi:
    """The guest's open-iscsi."""
    return OpenIscsi(guest)

"""Where user and secret come from, and which of them holds when there is more than one."""

from __future__ import annotations

from pathlib import Path

import pytest

from csvd.errors import ConfigError
from csvd.iscsi.chap import Credentials
from initiator.errors import AuthenticationFailed
from initiator.secrets import chap_secret, our_credentials, target_credentials
from initiator.url import IscsiUrl, parse_url

PLACE = "host/iqn.2026-11.test:disk/0"
ENVIRONMENT = {
    "LIBISCSI_CHAP_USERNAME": "env",
    "LIBISCSI_CHAP_PASSWORD": "secret of env",
    "LIBISCSI_CHAP_TARGET_USERNAME": "env-target",
    "LIBISCSI_CHAP_TARGET_PASSWORD": "secret of env-target",
}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"secret of file\n")
    path.chmod(0o600)
    return path


def url(user_part: str = "", options: str = "") -> IscsiUrl:
    return parse_url(f"iscsi://{user_part}{PLACE}{options}")


def test_nobody_named_is_nobody() -> None:
    assert our_credentials(url(), environment={}) is None
    assert target_credentials(url(), environment={}) is None


def test_a_file_goes_before_the_url_and_that_before_the_environment(secret_file: Path) -> None:
    both = url("joe%secret%20of%20url@")
    assert our_credentials(both, secret_file=secret_file, environment=ENVIRONMENT) == Credentials(
        "joe", b"secret of file"
    )
    assert our_credentials(both, environment=ENVIRONMENT) == Credentials("joe", b"secret of url")
    assert our_credentials(url(), environment=ENVIRONMENT) == Credentials("env", b"secret of env")


def test_the_environment_may_have_the_secret_of_the_user_of_the_url() -> None:
    assert our_credentials(url("joe@"), environment=ENVIRONMENT) == Credentials("joe", b"secret of env")


def test_a_user_that_is_given_goes_before_that_of_the_url_and_never_gets_its_secret(secret_file: Path) -> None:
    place = url("joe%secret%20of%20url@")
    assert our_credentials(place, user="ann", secret_file=secret_file, environment={}) == Credentials(
        "ann", b"secret of file"
    )
    with pytest.raises(AuthenticationFailed, match="no secret for the user ann"):
        our_credentials(place, user="ann", environment={})


def test_half_of_a_pair_is_told(secret_file: Path) -> None:
    with pytest.raises(AuthenticationFailed, match="no secret for the user joe"):
        our_credentials(url("joe@"), environment={"LIBISCSI_CHAP_USERNAME": "env"})
    assert our_credentials(url(), environment={"LIBISCSI_CHAP_USERNAME": "env"}) is None
    with pytest.raises(ConfigError, match="a secret and no user"):
        our_credentials(url(), secret_file=secret_file, environment={})
    with pytest.raises(ConfigError, match="no secret by which the target proves to be disk"):
        target_credentials(url(options="?target_user=disk"), environment={})


def test_the_target_proves_itself_by_file_url_or_environment(secret_file: Path) -> None:
    both = url(options="?target_user=disk&target_password=secret-of-url")
    assert target_credentials(both, secret_file=secret_file, environment={}) == Credentials("disk", b"secret of file")
    assert target_credentials(both, environment=ENVIRONMENT) == Credentials("disk", b"secret-of-url")
    assert target_credentials(url(), environment=ENVIRONMENT) == Credentials("env-target", b"secret of env-target")


def test_who_proves_himself_to_nobody_asks_no_target_by_the_environment() -> None:
    assert target_credentials(url(), proved=False, environment=ENVIRONMENT) is None


def test_a_credential_of_systemd_is_a_secret_file(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no CREDENTIALS_DIRECTORY"):
        chap_secret("${CREDENTIALS_DIRECTORY}/secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret_file.parent))
    secret_file.chmod(0o440)
    assert chap_secret("${CREDENTIALS_DIRECTORY}/secret") == b"secret of file"
    assert chap_secret(secret_file) == b"secret of file"
    secret_file.chmod(0o444)
    with pytest.raises(ConfigError, match="others may read"):
        chap_secret(secret_file)

"""Where the secrets of CHAP come from: what the caller gives, files, the URL, the environment; in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from csvd.errors import ConfigError
from csvd.iscsi.chap import Credentials
from csvd.secret_file import read_secret, secret_path
from initiator.errors import AuthenticationFailed
from initiator.url import IscsiUrl

MAX_SECRET_BYTES: Final = 255

OUR_VARIABLES: Final = ("LIBISCSI_CHAP_USERNAME", "LIBISCSI_CHAP_PASSWORD")
TARGET_VARIABLES: Final = ("LIBISCSI_CHAP_TARGET_USERNAME", "LIBISCSI_CHAP_TARGET_PASSWORD")
"""Where libiscsi and its users have user and secret."""

SecretPath = str | os.PathLike[str]


def chap_secret(path: SecretPath) -> bytes:
    """Read a CHAP secret: the bytes of a file without a line end. ``${CREDENTIALS_DIRECTORY}/`` at the head of the path
    is where systemd puts what LoadCredential= names.

    Raises:
        ConfigError: it can not be read, others may read it, or it has not 1 to 255 bytes.
    """
    return read_secret(secret_path(path), limit_bytes=MAX_SECRET_BYTES, kind="CHAP secret")


def our_credentials(
    place: IscsiUrl,
    *,
    user: str = "",
    secret_file: SecretPath | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Credentials | None:
    """Give who we are to a target; None where nobody names a user.

    Raises:
        ConfigError: the secret can not be read, or has no user.
        AuthenticationFailed: there is a user and no secret.
    """
    found = _settle(user or place.user, secret_file, place.credentials, environment, OUR_VARIABLES)
    if found is None and (user or place.user):
        what = f"there is no secret for the user {user or place.user}"
        raise AuthenticationFailed(what, hint="give secret_file, or credentials with it")
    return found


def target_credentials(
    place: IscsiUrl,
    *,
    user: str = "",
    secret_file: SecretPath | None = None,
    proved: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> Credentials | None:
    """Give by what the target has to prove itself; None where nobody asks for it. Who does not prove himself
    (``proved``) does not ask by the environment, which is for every target.

    Raises:
        ConfigError: the secret can not be read, or there is a user without a secret or a secret without a user.
    """
    name = user or place.target_user
    found = _settle(name, secret_file, place.target_credentials, environment if proved else {}, TARGET_VARIABLES)
    if found is None and name:
        raise ConfigError(f"there is no secret by which the target proves to be {name}", hint="give target_secret_file")
    return found


def _settle(
    user: str,
    secret_file: SecretPath | None,
    in_url: Credentials | None,
    environment: Mapping[str, str],
    variables: tuple[str, str],
) -> Credentials | None:
    user_there, secret_there = (environment.get(variable, "") for variable in variables)
    if secret_file is not None:
        if not (user or user_there):
            raise ConfigError("a secret and no user", where=os.fspath(secret_file), hint="give the user, too")
        return Credentials(user or user_there, chap_secret(secret_file))
    if in_url is not None and user == in_url.user:
        return in_url
    if secret_there and (user or user_there):
        return Credentials(user or user_there, os.fsencode(secret_there))
    return None

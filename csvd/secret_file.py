"""Secrets are read from files that nobody else may read, never from a command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from csvd.errors import ConfigError

MAX_SECRET_BYTES: Final = 4096

CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
"""Names the folder where systemd puts what LoadCredential= names."""


def read_secret(path: Path, *, limit_bytes: int = MAX_SECRET_BYTES, kind: str = "secret") -> bytes:
    """Read a secret: the file's bytes without a line end.

    Credentials that systemd hands over are taken as they are: systemd keeps others out by an ACL, which shows as a
    group's right in the mode.

    Args:
        path: the file, of mode 0600 or less.
        limit_bytes: the longest secret that is taken.
        kind: what the secret is, for the error of a wrong length.

    Raises:
        ConfigError: it can not be read, others may read it, it is not a file, is empty or longer than the limit.
    """
    forbidden = stat.S_IRWXO if is_credential(path) else stat.S_IRWXG | stat.S_IRWXO
    try:
        # O_NONBLOCK: a FIFO put in its place must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError("can not read the secret", where=str(path), why=error.strerror or "") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("the secret is not in a file", where=str(path))
        if stat.S_IMODE(status.st_mode) & forbidden:
            raise ConfigError("others may read this secret", where=str(path), hint=f"chmod 600 {path}")
        secret = os.read(descriptor, limit_bytes + 3).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError("can not read the secret", where=str(path), why=error.strerror or "") from error
    finally:
        os.close(descriptor)
    if not 0 < len(secret) <= limit_bytes:
        raise ConfigError(f"a {kind} has 1 to {limit_bytes} bytes", where=str(path))
    return secret


def is_credential(path: Path) -> bool:
    """Whether a file is one that systemd hands over."""
    directory = os.environ.get(CREDENTIALS_VARIABLE, "")
    return os.path.isabs(directory) and path.parent == Path(directory)


def secret_path(text: str | os.PathLike[str]) -> Path:
    """Give the path of a secret that a person wrote; ``${CREDENTIALS_DIRECTORY}/`` at its head is systemd's folder.

    Raises:
        ConfigError: it names that folder, and there is none.
    """
    name = os.fspath(text)
    variable = f"${{{CREDENTIALS_VARIABLE}}}/"
    if not name.startswith(variable):
        return Path(name)
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    if not directory:
        raise ConfigError(f"the environment has no {CREDENTIALS_VARIABLE}", where=name, hint="systemd sets it")
    return Path(directory, name.removeprefix(variable))

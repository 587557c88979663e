"""The name of an image as a URL, in the way QEMU writes it: ``rbd:pool/image:id=user:conf=/etc/ceph/ceph.conf``."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Final

from csvd.errors import ConfigError

_OPTION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SECRETS: Final = frozenset({"key", "keyfile", "password", "secret"})
_OURS: Final = ("id", "conf", "keyring")
_CEPH: Final = ("mon_host", "fsid", "auth_client_required", "ms_mode")
_HINT: Final = "write rbd:pool/image or rbd:pool/namespace/image, and options after it as in rbd:pool/image:id=admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class RbdName:
    """Which image, and how to reach its cluster.

    Args:
        url: what it was written as.
        pool, namespace, image: its name; the namespace is "" for the default one.
        user: the name of the Ceph user, without ``client.``.
        conf: Ceph's configuration file; "" for where Ceph looks by itself.
        keyring: the file with the user's key; "" for where the configuration says.
        settings: other settings of Ceph.
        deadline_s: how long a call may take; no URL says it.
        key: the user's key, in the place of a keyring; no URL says it.
    """

    url: str
    pool: str
    namespace: str
    image: str
    user: str = "admin"
    conf: str = ""
    keyring: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    deadline_s: float = 30.0
    key: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """What all names of the same image have in common, as far as it can be told without a cluster."""
        cluster = self.settings.get("mon_host") or self.conf
        return f"rbd:{self.pool}/{self.namespace}/{self.image}@{cluster}"


def parse_rbd_url(url: str) -> RbdName:
    r"""Take a URL apart. A backslash keeps ``:``, ``/``, ``@``, ``=`` and ``\`` from meaning anything.

    Raises:
        ConfigError: it is not the name of an image, has an option that is not known or twice, or holds a secret.
    """
    pieces = _split(url.removeprefix("rbd:"), ":")
    names = [_plain(part) for part in _split(pieces[0], "/")]
    if len(names) not in (2, 3) or not all(names) or any("\0" in name for name in names):
        raise ConfigError("is not the name of an image", where=url, hint=_HINT)
    if len(_split(pieces[0], "@")) > 1:
        hint = r"leave out the @ and what follows, or write \@ where the name of the image has one"
        raise ConfigError("a snapshot can not be served", where=url, hint=hint)
    options = _options(url, pieces[1:])
    keyring = options.pop("keyring", "")
    return RbdName(
        url=url,
        pool=names[0],
        namespace=names[1] if len(names) == 3 else "",
        image=names[-1],
        user=options.pop("id", "admin"),
        conf=options.pop("conf", ""),
        keyring=keyring,
        settings=options,
    )


def check_keyring(name: RbdName) -> None:
    """Check that a keyring that was named is there, and that nobody else may read it.

    Raises:
        ConfigError: it is not, or others may.
    """
    if not name.keyring:
        return
    try:
        mode = os.stat(name.keyring).st_mode
    except OSError as error:
        raise ConfigError("can not read the keyring", where=name.keyring, why=error.strerror or "") from error
    if not stat.S_ISREG(mode):
        raise ConfigError("the keyring is not a file", where=name.keyring)
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError("others may read this keyring", where=name.keyring, hint=f"chmod 600 {name.keyring}")


def _options(url: str, pieces: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for piece in pieces:
        name, *rest = _split(piece, "=")
        value = _plain("=".join(rest))
        if not _OPTION_NAME.fullmatch(name) or not value or any(character in value for character in "\0\r\n"):
            raise ConfigError(f"{name[:40]!r} is not an option", where=_without_secrets(url), hint=_HINT)
        if name in _SECRETS:
            hint = "put it into a keyring of mode 0600, and name that: keyring=/etc/ceph/ceph.client.csvd.keyring"
            raise ConfigError("a secret does not belong into a URL", where=_without_secrets(url), hint=hint)
        if name not in _OURS and name not in _CEPH:
            known = ", ".join(_OURS + _CEPH)
            raise ConfigError(f"the option {name} is not known", where=url, hint=f"known are {known}")
        if name in options:
            raise ConfigError(f"the option {name} is there twice", where=url)
        options[name] = value
    return options


def _split(text: str, at: str) -> list[str]:
    """Split at a character that has no backslash before it; the backslashes stay."""
    parts = [""]
    escaped = False
    for character in text:
        if character == at and not escaped:
            parts.append("")
            continue
        parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _without_secrets(url: str) -> str:
    return _split(url, ":")[0] + ":" + _split(url.removeprefix("rbd:"), ":")[0]

"""Finding Ceph's modules `rados` and `rbd`, which come with the distribution and not from PyPI.

Debian builds them for its own Python, and puts them where that one looks. They are extension modules: any CPython of
the same minor version can load them, also that of a virtual environment. They are loaded by their file names, so that
nothing else of the distribution's packages is seen.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any, Final

from csvd.errors import ConfigError

_MINOR: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
FOLDERS: Final = (
    "/usr/lib/python3/dist-packages",
    f"/usr/lib64/python{_MINOR}/site-packages",
    f"/usr/lib/python{_MINOR}/site-packages",
)
"""Where Debian and its children, Red Hat's and SUSE's, and Arch have them."""

_HINT: Final = (
    "install Ceph's Python modules: apt install python3-rbd (Debian, Ubuntu), dnf install python3-rbd (Fedora)"
)


@dataclass(frozen=True, slots=True)
class Library:
    """Ceph's two modules. They have no types."""

    rados: Any
    rbd: Any


def load_library(folders: Sequence[str] = FOLDERS) -> Library:
    """Import them, from where Python looks or else from these folders. May read much from a disk: it blocks.

    Raises:
        ConfigError: they are not there, are made for another Python, or can not be loaded.
    """
    # The order matters: rbd looks for rados among the modules that are loaded.
    return Library(rados=_module("rados", folders), rbd=_module("rbd", folders))


def is_installed(name: str, folders: Sequence[str] = FOLDERS) -> bool:
    """Whether one of the two modules is there, for this Python or another one."""
    return find_spec(name) is not None or any(_in_folder(name, folder) for folder in folders)


def _module(name: str, folders: Sequence[str]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        pass
    except ImportError as error:
        raise _unusable(name, str(error)) from error
    others: list[str] = []
    for folder in folders:
        for suffix in EXTENSION_SUFFIXES:
            path = os.path.join(folder, name + suffix)
            if os.path.exists(path):
                return _load(name, path)
        others += _in_folder(name, folder)
    if others:
        raise ConfigError(
            f"Ceph's Python module {name} is there for another Python only",
            where=others[0],
            why=f"this is Python {_MINOR}",
            hint="run csvd with the Python that the distribution has",
        )
    raise ConfigError(f"an rbd: disk needs Ceph's Python module {name}", why="it is not installed", hint=_HINT)


def _load(name: str, path: str) -> ModuleType:
    loader = ExtensionFileLoader(name, path)
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None, path
    try:
        module = module_from_spec(spec)
        sys.modules[name] = module
        loader.exec_module(module)
    except ImportError as error:
        sys.modules.pop(name, None)
        raise _unusable(path, str(error)) from error
    return module


def _in_folder(name: str, folder: str) -> list[str]:
    try:
        entries = os.listdir(folder)
    except OSError:
        return []
    return [os.path.join(folder, entry) for entry in entries if entry.startswith(f"{name}.") and entry.endswith(".so")]


def _unusable(where: str, why: str) -> ConfigError:
    return ConfigError("Ceph's Python module can not be loaded", where=where, why=why, hint=_HINT)

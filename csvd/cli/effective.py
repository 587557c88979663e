"""The configuration in force as TOML, with where each target, logical unit and entry of an access list is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from csvd.cli.output import plain

_NAMES: Final = {"lun": "number", "acl": "initiator"}


def effective_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The lines for people."""
    yield plain(f"# {answer['file']}, and over it what {answer['changes_file']} has")
    origins: Mapping[str, str] = answer["origins"]
    for name, section in answer["configuration"].items():
        if isinstance(section, list):
            for table in section:
                yield from _target(name, table, origins)
        elif section is not None:
            yield from _table(name, section, is_list=False)


def _target(path: str, table: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    inner = {key: table[key] for key in _NAMES}
    rest = {key: value for key, value in table.items() if key not in inner}
    yield from _table(path, rest, is_list=True, origin=origins.get(table["name"], ""))
    for key, name in _NAMES.items():
        for each in inner[key]:
            origin = origins.get(f"{table['name']} {key} {each[name]}", "")
            yield from _table(f"{path}.{key}", each, is_list=True, origin=origin)


def _table(path: str, table: Mapping[str, Any], *, is_list: bool, origin: str = "") -> Iterator[str]:
    yield ""
    header = f"[[{path}]]" if is_list else f"[{path}]"
    yield plain(f"{header}  # from {origin}" if origin else header)
    for key, value in table.items():
        if value is not None and not _is_table(value):
            yield plain(f"{key} = {_toml(key, value)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _table(f"{path}.{key}", value, is_list=False)
        elif _is_table(value):
            for each in value:
                yield from _table(f"{path}.{key}", each, is_list=True)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _toml(key: str, value: Any) -> str:
    if key == "mode":
        return f'"{value:04o}"'
    return json.dumps(value, ensure_ascii=False)

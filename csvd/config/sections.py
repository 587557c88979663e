"""Sections of the configuration: dataclasses whose fields are annotated with a Key or a Table; and their reader.

The declaration is the one place that knows a key: its kind, its default and its documentation. Reading, the example
and the reference in docs/configuration.md come from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints

from csvd.config.values import Kind
from csvd.errors import ConfigError

T = TypeVar("T")

REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section.

    Args:
        kind: what its value may be.
        doc: what it is for, in whole sentences.
        default: its value when it is not there; REQUIRED when it must be.
        default_words: the default in words, where it depends on other keys.
        example: its value in the example, as TOML.
        off: whether the example shows it as a comment.
    """

    kind: Kind
    doc: str
    default: Any
    default_words: str
    example: str
    off: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A section in a section.

    Args:
        section: its dataclass.
        doc: what it is for.
        is_list: whether it is an array of tables (``[[…]]``); a list of no tables when it is not there.
        is_one_a_table: of an array, whether a single one may be written as a table (``[…]``).
        is_optional: whether it may be left out: its value is None then. Otherwise all defaults are taken.
        off: whether the example shows it as a comment.
    """

    section: type[Any]
    doc: str
    is_list: bool
    is_optional: bool
    off: bool
    is_one_a_table: bool = False


def key(
    kind: Kind, doc: str, *, default: Any = REQUIRED, default_words: str = "", example: str = "", off: bool = False
) -> Key:
    """Declare a key; see Key."""
    return Key(kind, doc, default, default_words, example, off)


def table(section: type[Any], doc: str, *, is_optional: bool = False, off: bool = False) -> Table:
    """Declare a section in a section; see Table."""
    return Table(section, doc, is_list=False, is_optional=is_optional, off=off)


def tables(section: type[Any], doc: str, *, off: bool = False, is_one_a_table: bool = False) -> Table:
    """Declare an array of tables; see Table."""
    return Table(section, doc, is_list=True, is_optional=False, off=off, is_one_a_table=is_one_a_table)


_declared: Final[dict[type[Any], Mapping[str, Key | Table]]] = {}


def declarations(section: type[Any]) -> Mapping[str, Key | Table]:
    """What a section may hold, by name, in the order of its declaration."""
    found = _declared.get(section)
    if found is None:
        # Kept: the hints are texts that would be compiled anew for every logical unit that is read.
        hints = get_type_hints(section, include_extras=True)
        found = _declared[section] = {name: hint.__metadata__[0] for name, hint in hints.items()}
    return found


Report = Callable[[str, ConfigError], None]
"""Told the path of a key and what is wrong with it."""


def read_section(section: type[T], found: object, path: str, report: Report) -> T | None:
    """Read a section.

    Args:
        found: what the file has at ``path``.
        report: called for each problem.

    Returns:
        The section, or None when there was a problem in it.
    """
    if not isinstance(found, Mapping):
        report(path, ConfigError("is not a table", hint=f"write [{path}] on a line of its own, then its keys"))
        return None
    problems = 0

    def count(where: str, error: ConfigError) -> None:
        nonlocal problems
        problems += 1
        report(where, error)

    known = declarations(section)
    for name in found:
        if name not in known:
            count(_join(path, name), _unknown(name, known))
    values = {name: _read(known[name], found, name, _join(path, name), count) for name in known}
    return None if problems else section(**values)


def _read(declaration: Key | Table, found: Mapping[str, Any], name: str, path: str, report: Report) -> Any:
    if isinstance(declaration, Table):
        if declaration.is_list:
            return _read_list(declaration, found.get(name, []), path, report)
        if name not in found and declaration.is_optional:
            return None
        return read_section(declaration.section, found.get(name, {}), path, report)
    if name not in found:
        if declaration.default is REQUIRED:
            report(path, ConfigError("is missing", hint=f"it is {declaration.kind.words}"))
        return declaration.default
    return _checked(declaration.kind, found[name], path, report)


def _checked(kind: Kind, value: Any, path: str, report: Report) -> Any:
    try:
        return kind.read(value)
    except ConfigError as error:
        report(path, error)
        return None


def _read_list(declaration: Table, found: object, path: str, report: Report) -> tuple[Any, ...]:
    if declaration.is_one_a_table and isinstance(found, Mapping):
        return (read_section(declaration.section, found, path, report),)
    if not isinstance(found, Sequence) or isinstance(found, str):
        report(path, ConfigError("is not an array of tables", hint=f"write [[{path}]] for each"))
        return ()
    return tuple(
        read_section(declaration.section, item, f"{path}[{position}]", report) for position, item in enumerate(found)
    )


def _unknown(name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
    return ConfigError("is not a known key", hint=hint)


def _join(path: str, name: str) -> str:
    shown = name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else repr(name[:60])
    return f"{path}.{shown}" if path else shown

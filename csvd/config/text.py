"""The configuration told to people: the example, and the reference of every key. Both come from the declaration."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from csvd.config.schema import Config
from csvd.config.sections import REQUIRED, Key, Table, declarations

_WIDTH: Final = 100

_EXAMPLE_HEAD: Final = """\
# The configuration of a node of csvd: a TOML file, by habit /etc/csvd/csvd.toml.
# Every key is here. Lines that begin with '#' and no blank are keys that may be left out; take the '#' away to set one.
# Relative paths begin at the directory of this file. ${CREDENTIALS_DIRECTORY}/ at the head of a path is where systemd
# puts what LoadCredential= names. Check it with: csvd config check FILE
"""

_REFERENCE_HEAD: Final = """\
# Configuration

`csvd run --config FILE` reads one TOML file. `csvd config example` prints one with every key and what it means,
`csvd config check FILE` tells every problem of a file, each with the key it concerns. A key that is not known is a
problem, too: a misspelt one never passes in silence.

Relative paths begin at the directory of the file. `${CREDENTIALS_DIRECTORY}/` at the head of a path is where systemd
puts what `LoadCredential=` names. Sizes are whole numbers of bytes, or texts with a unit: `"64K"`, `"256M"`, `"1.5G"`,
`"10T"`; units are powers of 1,024. Everything listens on loopback unless it is told otherwise.

What `csvd target`, `csvd lun` and `csvd acl` change while a node runs is not written into this file, which is its
operator's: it is kept in `targets.json` in the state directory, by the same keys, and laid over the file at each start.
A key that was changed while the node ran goes before the file's; what was removed stays away; a target, LUN or entry of
an access list that was made while the node ran and is in the file, too, ends the start with an error that names both.
`csvd config show` prints what is in force, and where each part is from. Secrets are in neither: both name files.

This page is made from the declaration of the keys in `csvd/config/schema.py`:
`python -m csvd.config.text > docs/configuration.md`; a test holds the two equal.
"""


def example() -> str:
    """A file with every key, which passes the check as it is."""
    lines = [_EXAMPLE_HEAD.rstrip("\n")]
    for name, declaration in declarations(Config).items():
        assert isinstance(declaration, Table)
        lines += _example_table(name, declaration, off=declaration.off)
    return "\n".join(lines) + "\n"


def _example_table(path: str, declaration: Table, *, off: bool) -> Iterator[str]:
    mark = "#" if off else ""
    brackets = ("[[", "]]") if declaration.is_list and not declaration.is_one_a_table else ("[", "]")
    yield ""
    yield from _comment(declaration.doc)
    yield f"{mark}{brackets[0]}{path}{brackets[1]}"
    inner = declarations(declaration.section)
    for name, item in inner.items():
        if isinstance(item, Key):
            yield from _comment(f"{item.doc} {_default_sentence(item)}")
            yield f"{'#' if off or item.off else ''}{name} = {item.example}"
    for name, item in inner.items():
        if isinstance(item, Table):
            yield from _example_table(f"{path}.{name}", item, off=off or item.off)


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, _WIDTH))


def _default_sentence(item: Key) -> str:
    return "Required." if item.default is REQUIRED else f"Default: {default_words(item)}."


def default_words(item: Key) -> str:
    """A key's default as it would be written, or in words."""
    if item.default_words:
        return item.default_words
    return _toml(item.default)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def reference() -> str:
    """The page docs/configuration.md."""
    lines = [_REFERENCE_HEAD.rstrip("\n")]
    for name, declaration in declarations(Config).items():
        assert isinstance(declaration, Table)
        lines += _reference_table(name, declaration)
    lines += [
        "",
        "## An example",
        "",
        "What `csvd config example` prints:",
        "",
        "```toml",
        example().rstrip("\n"),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _reference_table(path: str, declaration: Table) -> Iterator[str]:
    headers = [_header(path, is_list=False)] if declaration.is_one_a_table or not declaration.is_list else []
    headers += [_header(path, is_list=True)] if declaration.is_list else []
    yield from ("", f"## {' or '.join(f'`{header}`' for header in headers)}", "", declaration.doc)
    inner = declarations(declaration.section)
    keys = {name: item for name, item in inner.items() if isinstance(item, Key)}
    yield from ("", "| Key | Value | Default | Meaning |", "|---|---|---|---|")
    for name, row in keys.items():
        default = "required" if row.default is REQUIRED else _cell(default_words(row))
        yield f"| `{name}` | {_cell(row.kind.words)} | {default} | {_cell(row.doc)} |"
    for name, item in inner.items():
        if isinstance(item, Table):
            yield from _reference_table(f"{path}.{name}", item)


def _header(path: str, *, is_list: bool) -> str:
    return f"[[{path}]]" if is_list else f"[{path}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())

"""The reference of the command line, docs/cli.md: every command's own help."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from csvd.cli.main import csvd

_HEAD: Final = """\
# The command line

Commands are a noun and a verb: `csvd vm create`. Those that ask a daemon speak to its control socket: `--socket PATH`,
else the environment's `CSVD_SOCKET`, else `/run/csvd/control.sock`; any node of a cluster can be asked about all of it.
Those take `--json`, too, which prints one JSON value on stdout; progress and errors are on stderr.

The control API itself is HTTP and JSON on that socket: `curl --unix-socket /run/csvd/control.sock http://csvd/v1` lists
its routes.

Exit status: 0 done; 1 not done, with one line on stderr that says what, where and why; 2 wrong usage; 130 Ctrl-C.

Sizes are bytes, or a number with K, M, G or T, which are powers of 1,024: `64K`, `256M`, `1.5G`.

This page is made from the commands themselves: `python -m csvd.cli.reference > docs/cli.md`; a test holds them equal.
"""


def reference() -> str:
    """The page."""
    return "\n".join([_HEAD.rstrip("\n"), *_lines(csvd, None)]) + "\n"


def _lines(command: click.Command, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=command.name)
    yield from ("", f"## `{context.command_path}`", "", f"`{_usage(command, context)}`", "")
    yield from _help(command.help or "")
    rows = [_option(parameter) for parameter in command.params if isinstance(parameter, click.Option)]
    if rows:
        yield from ("", "| Option | Meaning |", "|---|---|", *rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _lines(inner, context)


def _usage(command: click.Command, context: click.Context) -> str:
    words = [context.command_path]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            words.append(parameter.metavar or str(parameter.name).upper())
        elif isinstance(parameter, click.Option) and parameter.required:
            words.append(_option_words(parameter))
    words.append("COMMAND" if isinstance(command, click.Group) else "[OPTIONS]")
    return " ".join(words)


def _help(text: str) -> Iterator[str]:
    """The help's paragraphs; those that click prints as they are (``\\b``), as code."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ""
        lines = paragraph.splitlines()
        if lines and lines[0] == "\b":
            yield from (lines[1], "", "```", *(line.removeprefix("  ") for line in lines[2:]), "```")
        else:
            yield from lines


def _option_words(option: click.Option) -> str:
    flags = ", ".join(option.opts)
    if option.is_flag:
        return flags
    if isinstance(option.type, click.Choice):
        return f"{flags} {'|'.join(map(str, option.type.choices))}"
    return f"{flags} {option.metavar or option.type.name.upper()}"


def _option(option: click.Option) -> str:
    meaning = (option.help or "").replace("  [", " [")
    if option.required:
        meaning += " Required."
    elif option.show_default:
        default = option.default if isinstance(option.default, list | tuple) else [option.default]
        meaning += f" [default: {', '.join(map(str, default))}]"
    return f"| `{_option_words(option).replace('|', chr(92) + '|')}` | {meaning.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)

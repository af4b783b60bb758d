"""Wrong use and refusals of the operating system, as errors of ours that say what to do."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer

from pg_embed.cli.options import no_dsn
from pg_embed.errors import InvalidArgument, PgEmbedError

WrongUse: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, whosever click typer uses
HINTS = {
    errno.EACCES: "let this user read and write there, or choose another place",
    errno.ENOSPC: "make room there, or choose another place",
    errno.EROFS: "choose another place",
}


def of_use(error: Any) -> InvalidArgument:
    """What was wrong with the command line, or with a variable that stands for a part of it."""
    parameter, context = getattr(error, "param", None), error.ctx
    is_missing = type(error).__name__ == "MissingParameter"
    if is_missing and parameter is not None and parameter.name == "dsn":
        return no_dsn()
    said = str(error.format_message()).rstrip(".")
    variable = None if is_missing or parameter is None or context is None else _variable(parameter, context)
    told = f" (variable {variable})" if variable and variable not in said else ""
    path = context.command_path if context else "pg-embed"
    return InvalidArgument(f"{said[:1].lower()}{said[1:]}{told}", hint=f"see: {path} --help")


def of_system(error: OSError) -> PgEmbedError:
    """What could not be done with which file."""
    where = f"{error.filename}: " if error.filename else ""
    return PgEmbedError(f"{where}{error.strerror or error}", hint=HINTS.get(error.errno or 0))


def _variable(parameter: Any, context: Any) -> str | None:
    """The variable that gave the parameter its value, if one did."""
    names = parameter.envvar or f"{context.auto_envvar_prefix}_{parameter.name}".upper()
    found = [name for name in ([names] if isinstance(names, str) else names) if os.environ.get(name)]
    given = {argument.partition("=")[0] for argument in sys.argv}
    return found[0] if found and not given & set(parameter.opts) else None

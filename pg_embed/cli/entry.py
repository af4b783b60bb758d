"""From a command line to an exit status: what a command raises, and what streams and signals do."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from typing import TextIO

from pg_embed import heap
from pg_embed.cli import COMMANDS, INTERRUPTED, logs
from pg_embed.cli.app import app
from pg_embed.cli.mistakes import WrongUse, of_system, of_use
from pg_embed.cli.output import print_error, print_json
from pg_embed.errors import InvalidArgument, PgEmbedError

DEBUG = "PG_EMBED_DEBUG"
JSON = "PG_EMBED_JSON"
FAILED, WRONG_USE = 1, 2


def run() -> None:
    """Run the command that the command line names, and end the process."""
    _open_streams()
    logs.quiet()
    heap.share()  # now: what commands import starts threads
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # by nohup
            signal.signal(number, signal.default_int_handler)  # a stop is a stop, whoever asks for it
    status = _status()
    for stream in (sys.stdout, sys.stderr):
        status = status if _flush(stream) else status or FAILED
    if threading.active_count() > 1:
        os._exit(status)  # a model that still computes would be torn by the interpreter's end, and abort
    sys.exit(status)


def _open_streams() -> None:
    """Streams that the shell closed lead nowhere, lest the next socket gets their number; none fails by a
    letter that the terminal has not."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _flush(stream: TextIO) -> bool:
    """Whether all was written; what was not is given up, for the interpreter would try, and complain."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def _status() -> int:
    try:
        for command in COMMANDS:
            import_module(f"pg_embed.cli.{command}")
        if any(_is_torn(argument) for argument in sys.argv):
            raise InvalidArgument("an argument is not valid UTF-8")
        status = app(standalone_mode=False)
        return status if isinstance(status, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except WrongUse as error:
        return _explain(of_use(error))
    except PgEmbedError as error:
        return _explain(error)
    except OSError as error:
        return _explain(of_system(error))
    except Exception as error:
        hint = f"this is a fault of pg_embed's; {DEBUG}=1 shows where"
        return _explain(PgEmbedError(f"unexpected {type(error).__name__}: {error}", hint=hint))


def _is_torn(argument: str) -> bool:
    """Whether bytes of an argument were no text."""
    return any("\udc80" <= character <= "\udcff" for character in argument)


def _explain(error: PgEmbedError) -> int:
    """Tell people what went wrong, and programs if they read; the exit status."""
    if _is_set(DEBUG):
        traceback.print_exc()
    with suppress(OSError):
        print_error(error)
        if "--json" in sys.argv or _is_set(JSON):
            print_json(
                {
                    "error": {
                        "code": error.sqlstate,
                        "message": " ".join(str(error).split()),
                        "hint": error.hint,
                    }
                }
            )
    return WRONG_USE if isinstance(error, InvalidArgument) else FAILED


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "f", "no", "n", "off")

"""The command `pg-embed`: one file a command, each of them options, one call, and printing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module

from pg_embed import heap
from pg_embed.cli.app import app
from pg_embed.cli.output import print_error
from pg_embed.errors import InvalidArgument, PgEmbedError

COMMANDS = (
    "up",
    "demo",
    "install",
    "uninstall",
    "serve",
    "worker",
    "vectorize",
    "status",
    "failures",
    "retry",
    "backfill",
    "index",
    "recall",
    "switch",
    "search",
    "eval",
    "embed",
    "rerank",
    "models",
    "doctor",
)
DEBUG = "PG_EMBED_DEBUG"
INTERRUPTED = 130  # as shells say it


def main() -> None:
    """Run the command that the command line names."""
    heap.share()  # now: what commands import starts threads
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # by nohup
            signal.signal(number, signal.default_int_handler)  # a stop is a stop, whoever asks for it
    status = _run()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a shell can close them
            with suppress(OSError):
                stream.flush()
    if threading.active_count() > 1:
        os._exit(status)  # a model that still computes would be torn by the interpreter's end, and abort
    sys.exit(status)


def _run() -> int:
    try:
        for command in COMMANDS:
            import_module(f"pg_embed.cli.{command}")
        if any(_is_torn(argument) for argument in sys.argv):
            raise InvalidArgument("an argument is not valid UTF-8")
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except InvalidArgument as error:
        _explain(error)
        return 2
    except PgEmbedError as error:
        _explain(error)
    except OSError as error:
        _explain(PgEmbedError(str(error)))
    except Exception as error:
        hint = f"this is a fault of pg_embed's; {DEBUG}=1 shows where"
        _explain(PgEmbedError(f"unexpected {type(error).__name__}: {error}", hint=hint))
    return 1


def _is_torn(argument: str) -> bool:
    """Whether bytes of an argument were no text."""
    return any("\udc80" <= character <= "\udcff" for character in argument)


def _explain(error: PgEmbedError) -> None:
    if os.environ.get(DEBUG, "").lower() not in ("", "0", "false"):
        traceback.print_exc()
    print_error(error)

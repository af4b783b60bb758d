"""The command `pg-embed`: one file a command, each of them options, one call, and printing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from importlib import import_module

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
    "embed",
    "models",
    "doctor",
)
DEBUG = "PG_EMBED_DEBUG"


def main() -> None:
    """Run the command that the command line names."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a stop is a stop, whoever asks for it
    status = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(status)  # a model that still computes would be torn by the interpreter's end, and abort
    sys.exit(status)


def _run() -> int:
    for command in COMMANDS:
        import_module(f"pg_embed.cli.{command}")
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
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


def _explain(error: PgEmbedError) -> None:
    if os.environ.get(DEBUG, "").lower() not in ("", "0", "false"):
        traceback.print_exc()
    print_error(error)

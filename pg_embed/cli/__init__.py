"""The command `pg-embed`: one file a command, each of them options, one call, and printing."""

from __future__ import annotations

import sys

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
INTERRUPTED = 130  # as shells say it


def main() -> None:
    """Run the command that the command line names."""
    try:
        from pg_embed.cli.entry import run  # takes a moment, in which Ctrl-C may come

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

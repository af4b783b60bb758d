"""Runs `manage.py` in children that have everything imported: a process of its own, once for all tests.

Reads a line of JSON (folder, command or script), answers one (exit code, what was printed).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from typing import Any

import django
import django.contrib.postgres.fields
import django.core.management.commands.makemigrations
import django.core.management.commands.migrate
import django.core.management.commands.test
import django.db.backends.postgresql.base

import pg_embed.django.apps
import pg_embed.django.autodetector
import pg_embed.django.checks  # noqa: F401


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as printed:
            child = os.fork()
            if not child:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
                os._exit(run(asked))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            printed.seek(0)
            answer = {"code": code, "printed": printed.read().decode()}
        print(json.dumps(answer), flush=True)


def run(asked: dict[str, Any]) -> int:
    """One command, or one script, in a project."""
    os.chdir(asked["folder"])
    sys.path.insert(0, asked["folder"])
    sys.dont_write_bytecode = True
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    code = 0
    try:
        if "script" in asked:
            django.setup()
            exec(asked["script"], {"__name__": "__main__"})
        else:
            django.core.management.execute_from_command_line(["manage.py", *asked["command"]])
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()

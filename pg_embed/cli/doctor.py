"""`pg-embed doctor`: what must hold, whether it holds, and what to do."""

from __future__ import annotations

from dataclasses import asdict

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import Dsn, Json
from pg_embed.cli.output import print_json, say

MARKS = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED ", "skipped": "skipped"}


@app.command()
def doctor(dsn: Dsn, as_json: Json = False) -> None:
    """Check a database, its way to the sidecar, models and workers.

    The exit status is 1 if something fails.
    """
    from pg_embed.install.doctor import examine

    checks = []
    for check in examine(dsn):
        checks.append(check)
        if not as_json:
            typer.echo(f"{MARKS[check.state]}  {check.name}: {check.found}")
            if check.advice:
                typer.echo(f"         {check.advice}")
    holds = all(check.state != "failed" for check in checks)
    skipped = [check.name for check in checks if check.state == "skipped"]
    if as_json:
        print_json({"holds": holds, "skipped": skipped, "checks": [asdict(check) for check in checks]})
    elif skipped:
        say(f"not looked at: {', '.join(skipped)}")
    if not holds:
        raise typer.Exit(1)

"""What `install` and `upgrade` do, and how they tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import typer

from pg_embed.cli.catalog import first_model
from pg_embed.cli.output import say
from pg_embed.errors import NotInstalled
from pg_embed.install import install, install_sql, installed_revision, upgrade_sql


def as_sql(revision: str | None) -> str:
    """The installation, or the upgrade from a revision, for psql."""
    return install_sql([first_model()]) if revision is None else upgrade_sql(revision)


def run(
    dsn: str, transport: str | None, settings: Mapping[str, Any] | None, *, upgrades: bool
) -> dict[str, Any]:
    """Install or upgrade, and report."""
    before = installed_revision(dsn)
    if upgrades and before is None:
        raise NotInstalled("pg_embed is not installed in this database", hint="run: pg-embed install DSN")
    report = install(dsn, transport=transport, settings=settings, models=[first_model()], tell=say)
    return {"previous": before, **asdict(report)}


def explain(report: Mapping[str, Any]) -> None:
    """The report in sentences: results to standard output, advice to standard error."""
    done = "installed" if report["previous"] is None else "up to date"
    typer.echo(f"{done}: revision {report['revision']}, transport {report['transport']}")
    for kind, reason in report["reasons"].items():
        if kind != report["transport"] and kind != "none":
            say(f"not {kind}: {reason}")
    if report["transport"] == "none":
        say("embed() has no way to a sidecar yet: run install again with --socket, --host or --spool")
    if report["query_schema"] == "embed":
        say(
            'embed() stands in schema embed: SET search_path = "$user", public, embed, or write embed.embed()'
        )
    for notice in report["notices"]:
        say(f"notice: {notice}")

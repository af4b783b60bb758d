"""`pg-embed demo`: embed the docstrings of Python's standard library, and ask a few questions."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DataDir, Json
from pg_embed.cli.output import print_json, say

LOAD_TIMEOUT = 300.0  # seconds for the model
QUESTIONS = (
    "how do I read a csv file",
    "run a command and capture what it prints",
    "make a temporary folder that removes itself",
    "which weekday is a date",
)


@app.command()
def demo(
    data_dir: DataDir = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Embed so many docstrings, not all.")] = None,
    as_json: Json = False,
) -> None:
    """Search the docstrings of Python's standard library by meaning.

    They are embedded here, in an embedded PostgreSQL.
    """
    from pg_embed import config
    from pg_embed.cli import home, logs, showing
    from pg_embed.cli.demonstration import Demonstration
    from pg_embed.cli.running import in_background
    from pg_embed.cli.service import Plan
    from pg_embed.models.presets import presets
    from pg_embed.serve.settings import ServeSettings

    started = time.monotonic()
    settings = config.read()
    logs.set_up(settings.log, "error")
    say("starting PostgreSQL …")
    with home.opened(data_dir or home.default_folder("demo")) as server:
        demonstration = Demonstration(server.dsn())
        say("reading the docstrings of Python's standard library …")
        rows = demonstration.load(limit)
        plan = Plan(settings, ServeSettings(spool=server.spool_dir), worker_dsn=server.dsn())
        with in_background(plan) as service:
            say("loading the model all-MiniLM-L6-v2 …")
            service.card(presets()["all-MiniLM-L6-v2"].spec, LOAD_TIMEOUT)
            began = time.monotonic()
            embedded = showing.embedding(demonstration.progress(service.check))
            seconds = time.monotonic() - began
            demonstration.build_index()
            answers = [demonstration.ask(question) for question in QUESTIONS]
        line = home.psql_line(server.dsn())
        told = {"dsn": server.dsn(), "psql": line, "rows": rows, "embedded": embedded}
        told |= {"embed_seconds": round(seconds, 1), "seconds": round(time.monotonic() - started, 1)}
        if as_json:
            print_json({**told, "answers": answers})
        else:
            showing.answers(answers)
            showing.how_to_go_on(told, server.data_dir)

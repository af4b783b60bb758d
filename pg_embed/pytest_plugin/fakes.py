"""The fake model in a test's database, a sidecar that answers with it, and a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg.types.json import Jsonb

from pg_embed import db, statements
from pg_embed.cli.doors import chosen
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.client import Client
from pg_embed.config import Settings
from pg_embed.errors import InvalidArgument
from pg_embed.install import transports
from pg_embed.models import hashing
from pg_embed.models.presets import presets
from pg_embed.pytest_plugin.servers import Server
from pg_embed.records import ModelSpec, Output
from pg_embed.serve.directory import CatalogDirectory

NAME = "fake"
SIZES: Mapping[Output, str] = {
    "dense": "dimensions",
    "sparse": "sparse_dimensions",
    "multi": "multi_dimensions",
}


@contextmanager
def running(
    server: Server, dsn: str, options: Mapping[str, Any], models: str | Sequence[str] = ()
) -> Iterator[Client]:
    """A client; at the end the worker finishes what it has in hand."""
    names = [models] if isinstance(models, str) else models
    specs = [ModelSpec(NAME, "fake", dict(options)), *(_stand_in(name, options) for name in names)]
    try:
        cards = [hashing.load(spec).card for spec in specs]
    except TypeError as exc:
        raise InvalidArgument(f"the marker pg_embed_fake: {exc}") from exc
    transport = None if server.spool else _transport(dsn)
    with db.connect(dsn) as connection, db.translated():
        if transport is not None:
            transports.set_up(connection, transport)
            if transport == "dblink":
                transports.reach(connection, {}, kept=False)
        for spec, card in zip(specs, cards, strict=True):
            told = {
                **spec.__dict__,
                "options": Jsonb(spec.options),
                "card": Jsonb(card.as_dict()),
                "is_default": spec.name == NAME,
            }
            connection.execute(statements.load("cli")["create_model"], told)
    settings = Settings.model_construct()  # not those of the developer's environment
    doors = chosen(settings.serve, dsn) if transport != "none" else None
    plan = Plan(settings, doors, worker_dsn=dsn, directory=CatalogDirectory(dsn), warm=specs)
    try:
        with in_background(plan), Client(dsn, in_process=transport == "none") as client:
            yield client
    finally:
        if transport == "dblink":
            with db.connect(dsn) as connection:
                transports.take_down(connection)


def _stand_in(name: str, options: Mapping[str, Any]) -> ModelSpec:
    """The fake under the name of another model, which tells the sizes of its vectors if it is known."""
    preset = presets().get(name)
    if preset is not None and "score" in preset.outputs:
        raise InvalidArgument(
            f"the fake model stands in for no reranker: {name}", hint="leave it out of the marker's models"
        )
    sizes = {} if preset is None else {SIZES[output]: size for output, size in preset.dimensions.items()}
    return ModelSpec(name, "fake", {**options, **sizes})


def _transport(dsn: str) -> str:
    """For a server that shares no folder with us: dblink, and where it has none the client embeds."""
    with db.connect(dsn) as connection:
        return next(
            probe.kind
            for probe in transports.probe(connection, {})
            if probe.kind in ("dblink", "none") and probe.available
        )

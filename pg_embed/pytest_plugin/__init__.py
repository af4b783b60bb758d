"""Fixtures for tests of programs that use pg_embed: a real PostgreSQL, and a model that needs no weights.

pytest loads this module in every run where pg-embed is installed, so it imports nothing until a test asks
for one of its fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL

    from pg_embed import Client
    from pg_embed.pytest_plugin.servers import Server

OPTION = "--pg-embed-server"
INI = "pg_embed_server"
MARK = (
    "pg_embed_fake(models=[], **options): names of models that the fake stands in for; what it is told,"
    " such as dimensions=8, sparse_dimensions=1000"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the tests' databases are made."""
    told = "embedded (the default), docker (by testcontainers), or the DSN of a superuser"
    parser.getgroup("pg_embed").addoption(OPTION, metavar="SERVER", help=f"PostgreSQL for pg_embed: {told}")
    parser.addini(INI, f"the same as {OPTION}", default="embedded")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARK)


@pytest.fixture(scope="session")
def pg_embed_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """A PostgreSQL with pgvector, one for the run; see the option --pg-embed-server."""
    from pg_embed.pytest_plugin import servers

    with servers.running(pytestconfig.getoption(OPTION) or pytestconfig.getini(INI)) as server:
        yield server


@pytest.fixture(scope="session")
def pg_embed_template(pg_embed_server: Server) -> Iterator[str]:
    """The name of a database with pg_embed's schema, of which every test gets a copy."""
    from pg_embed.pytest_plugin import servers

    with servers.template(pg_embed_server) as name:
        yield name


@pytest.fixture
def pg_embed_dsn(pg_embed_server: Server, pg_embed_template: str) -> Iterator[str]:
    """The connection string of a fresh database with pg_embed's schema; dropped after the test."""
    from pg_embed.pytest_plugin import servers

    with servers.database(pg_embed_server, pg_embed_template) as name:
        yield pg_embed_server.dsn(name)


@pytest.fixture
def pg_embed_url(pg_embed_dsn: str) -> URL:
    """The same for SQLAlchemy's create_engine and create_async_engine, over psycopg."""
    from pg_embed.pytest_plugin import servers

    return servers.url(pg_embed_dsn)


@pytest.fixture
def pg_embed_db(pg_embed_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to the test's database."""
    import psycopg

    with psycopg.connect(pg_embed_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pg_embed_fake(
    request: pytest.FixtureRequest, pg_embed_server: Server, pg_embed_dsn: str
) -> Iterator[Client]:
    """A client of the test's database, where a worker runs and the model "fake" is the default.

    It makes the same vector of a text each time, from its hash; near texts are not near each other. Wait for
    what the worker does with `pg_embed_fake.wait(table)`. `@pytest.mark.pg_embed_fake(dimensions=8)` tells
    the model options, and with models=["bge-m3"] it stands in for models that the program names, too, with
    vectors of their sizes where these are known.
    """
    from pg_embed.pytest_plugin import fakes

    marker = request.node.get_closest_marker("pg_embed_fake")
    options = {} if marker is None else dict(marker.kwargs)
    with fakes.running(pg_embed_server, pg_embed_dsn, options, options.pop("models", ())) as client:
        yield client

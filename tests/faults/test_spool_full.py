"""The disk of the spool is full: calls fail in good time, and are right again as soon as there is room."""

from __future__ import annotations

import resource
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from tests.faults.nursery import nursery
from tests.faults.tables import MODEL, set_up
from tests.fix_serve import Place, spool_place, with_transport

CALL = "SELECT embed.embed(%s, 'faulty') IS NOT NULL"


@pytest.fixture
def full_place(dsn: str, serve_folder: Path) -> Place:
    """A database that reaches its sidecar by files."""
    return spool_place(dsn, serve_folder)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux sets limits of another process")
@pytest.mark.parametrize("first", [True, False], ids=["new session", "known session"])
def test_calls_fail_while_the_sidecar_cannot_write(full_place: Place, tmp_path: Path, first: bool) -> None:
    with with_transport(full_place), full_place.connect() as db, nursery(tmp_path / "log") as processes:
        set_up(db, [], models=[MODEL])
        sidecar = processes.sidecar({"spool": str(full_place.serve.spool)})
        if not first:
            assert db.execute(CALL, ("before",)).fetchone() == (True,)
        db.execute("SELECT set_config('embed.timeout', '0.5', false)")
        _, most = resource.prlimit(sidecar, resource.RLIMIT_FSIZE)
        resource.prlimit(sidecar, resource.RLIMIT_FSIZE, (0, most))
        for text in ("one", "two"):
            with pytest.raises(psycopg.Error) as caught:
                db.execute(CALL, (text,))
            assert caught.value.sqlstate == "PE011"
            assert not isinstance(caught.value, errors.QueryCanceled)
        resource.prlimit(sidecar, resource.RLIMIT_FSIZE, (most, most))
        db.execute("SELECT set_config('embed.timeout', '20', false)")
        assert db.execute(CALL, ("after",)).fetchone() == (True,)
        assert processes.stop(sidecar) == 0

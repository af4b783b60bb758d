"""Locks between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pg_embed.embedded.locks import FileLock
from pg_embed.errors import PgEmbedError


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()


def test_many_share_and_keep_out_one_who_wants_it_alone(tmp_path: Path) -> None:
    first, second, alone = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.try_acquire(shared=True)
    assert second.try_acquire(shared=True)
    assert not alone.try_acquire()
    first.release()
    second.release()
    assert alone.try_acquire()
    alone.release()


def test_waiting_ends_with_an_error_that_names_the_file(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with first.hold(timeout=1), pytest.raises(PgEmbedError, match="lock"):
        second.acquire(timeout=0.05)
    assert not first.held

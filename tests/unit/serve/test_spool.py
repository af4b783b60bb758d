"""The spool door, with files written as COPY writes them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.serve import spool
from pg_embed.serve.spool import SpoolDoor, decode_copy

ID = "0b5e4a52-6a0e-4d35-9a3e-0f5b4f1f7f3a"
REQUEST = b'{"id": "%b"}\n' % ID.encode()


async def echo(request: bytes) -> bytes:
    return request


def make_door(folder: Path, watch: bool = True) -> SpoolDoor:
    return SpoolDoor(echo, folder, max_requests=4, watch=watch)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


async def content(path: Path, other_than: bytes = b"") -> bytes:
    def read() -> bytes:
        return path.read_bytes() if path.exists() else b""

    await until(lambda: read() != other_than and read().endswith(b"\n"))
    return read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir(mode=0o700)
    return tmp_path / "spool"


@pytest.fixture(params=[True, False], ids=["told", "polled"])
async def door(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[SpoolDoor]:
    found = make_door(folder, watch=request.param)
    await found.open()
    yield found
    await found.close(1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"plain\n", b"plain"),
        (rb"back\\slash" + b"\n", rb"back\slash"),
        (rb"a\nb\tc\rd\be\ff\vg" + b"\n", b"a\nb\tc\rd\be\ff\vg"),
        (rb"\\n" + b"\n", rb"\n"),
        (rb"\\\n" + b"\n", b"\\\n"),
    ],
)
def test_copy_is_decoded(written: bytes, meant: bytes) -> None:
    assert decode_copy(written) == meant


async def test_requests_of_a_session_are_answered_one_after_the_other(door: SpoolDoor, folder: Path) -> None:
    (folder / "7.req").write_bytes(REQUEST)
    first = await content(folder / "7.ans")
    (folder / "7.req").write_bytes(b"second\n")
    assert first == REQUEST
    assert await content(folder / "7.ans", other_than=first) == b"second\n"


async def test_a_request_is_not_read_before_it_is_whole(door: SpoolDoor, folder: Path) -> None:
    (folder / "7.req").write_bytes(b"half")
    (folder / "8.req").write_bytes(b"whole\n")
    await content(folder / "8.ans")
    assert not (folder / "7.ans").exists()
    (folder / "7.req").write_bytes(b"half and the rest\n")
    assert await content(folder / "7.ans") == b"half and the rest\n"


async def test_requests_that_wait_at_the_start_are_answered(folder: Path) -> None:
    (folder / "7.req").write_bytes(REQUEST)
    (folder / "8.req").write_bytes(REQUEST)
    (folder / "8.ans").write_bytes(b'{"id":"%b","old":1}\n' % ID.encode())
    door = make_door(folder)
    await door.open()
    assert await content(folder / "7.ans") == REQUEST
    await door.close(1)
    assert b"old" in (folder / "8.ans").read_bytes()


async def test_old_files_of_ended_sessions_are_removed(folder: Path) -> None:
    old = time.time() - spool.IDLE_LIFETIME - 1
    for name in ("99999999.req", "99999999.ans", "99999999.tmp", "99999999.txt"):
        (folder / name).write_bytes(REQUEST)
        os.utime(folder / name, (old, old))
    door = make_door(folder)
    await door.open()
    assert names(folder) == ["99999999.txt", "alive", "lock"]
    await door.close(1)


async def test_a_new_request_ends_the_work_on_the_one_before(folder: Path) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes) -> bytes:
        if request == b"slow":
            entered.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return request

    door = SpoolDoor(slow, folder, max_requests=4)
    await door.open()
    (folder / "7.req").write_bytes(b"slow\n")
    await asyncio.wait_for(entered.wait(), 5)
    (folder / "7.req").write_bytes(b"quick\n")
    assert await content(folder / "7.ans") == b"quick\n"
    assert cancelled.is_set()
    await door.close(1)


async def test_signs_of_life_end_with_the_door(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "HEARTBEAT_INTERVAL", 0.02)
    door = make_door(folder)
    await door.open()
    first = (folder / "alive").stat().st_mtime_ns
    await until(lambda: (folder / "alive").stat().st_mtime_ns != first)
    await door.close(1)
    assert not (folder / "alive").exists()


async def test_a_folder_for_everybody_is_refused(folder: Path) -> None:
    await asyncio.to_thread(folder.chmod, 0o755)
    with pytest.raises(InvalidArgument, match="open to everybody"):
        await make_door(folder).open()


async def test_a_missing_folder_is_made_private(tmp_path: Path) -> None:
    door = make_door(tmp_path / "a" / "b")
    await door.open()
    await door.close(1)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


async def test_a_folder_has_one_sidecar(door: SpoolDoor, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="another sidecar"):
        await make_door(folder).open()


async def test_a_link_is_not_followed(door: SpoolDoor, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret\n")
    (folder / "7.req").symlink_to(tmp_path / "secret")
    (folder / "8.req").write_bytes(b"ok\n")
    await content(folder / "8.ans")
    assert not (folder / "7.ans").exists()


@pytest.mark.parametrize("name", [spool.LOCK, spool.ALIVE])
async def test_links_in_place_of_our_own_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    os.utime(victim, (1, 1))
    for target in (victim, tmp_path / "nowhere"):
        (folder / name).symlink_to(target)
        door = make_door(folder)
        with pytest.raises(InvalidArgument, match="cannot be used"):
            await door.open()
        await door.close(0)
        (folder / name).unlink(missing_ok=True)
    assert (victim.read_bytes(), victim.stat().st_mtime) == (b"mine", 1)
    assert not (tmp_path / "nowhere").exists()


async def test_a_link_put_in_place_of_a_sign_of_life_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "HEARTBEAT_INTERVAL", 0.01)
    door = make_door(folder)
    await door.open()
    (folder / spool.ALIVE).unlink()
    (folder / spool.ALIVE).symlink_to(tmp_path / "nowhere")
    await asyncio.sleep(0.1)
    (folder / spool.ALIVE).unlink()
    await until(lambda: (folder / spool.ALIVE).exists())
    await door.close(1)
    assert not (tmp_path / "nowhere").exists()

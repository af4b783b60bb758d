"""The socket doors, without a database."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.serve import frames
from pg_embed.serve.frames import FramesDoor, frame, tcp_door, unix_door

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(request: bytes) -> bytes:
    return b'{"echo":%b}' % request


class Gate:
    """An answer that waits to be let through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: bytes) -> bytes:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request


async def receive(reader: asyncio.StreamReader) -> Any:
    async with asyncio.timeout(5):
        size = int.from_bytes(await reader.readexactly(4), "big")
        return json.loads(await reader.readexactly(size))


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[FramesDoor], Awaitable[Streams]]]:
    """Opens a door and connects to it."""
    doors: list[FramesDoor] = []
    writers: list[asyncio.StreamWriter] = []

    async def open_and_connect(door: FramesDoor) -> Streams:
        if door not in doors:
            await door.open()
            doors.append(door)
        if door.address.startswith("/"):
            reader, writer = await asyncio.open_unix_connection(door.address)
        else:
            host, port = door.address.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return reader, writer

    yield open_and_connect
    for writer in writers:
        writer.close()
    for door in doors:
        await door.close(0)


def unix(path: Path, answer: frames.Answer = echo, most: int = 10) -> FramesDoor:
    return unix_door(answer, path / "s", mode=0o600, max_connections=most)


def tcp(answer: frames.Answer = echo) -> FramesDoor:
    return tcp_door(answer, "127.0.0.1", 0, token="open sesame", max_connections=10)


async def test_requests_in_a_row_are_answered_in_order(tmp_path: Path, opened: Any) -> None:
    reader, writer = await opened(unix(tmp_path))
    writer.write(b"".join(frame(str(number).encode()) for number in range(20)))
    assert [(await receive(reader))["echo"] for _ in range(20)] == list(range(20))


async def test_a_request_may_come_in_pieces(tmp_path: Path, opened: Any) -> None:
    reader, writer = await opened(unix(tmp_path))
    for byte in frame(b"[1, 2]"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert await receive(reader) == {"echo": [1, 2]}


async def test_only_the_owner_may_connect(tmp_path: Path, opened: Any) -> None:
    await opened(unix(tmp_path))
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


async def test_a_frame_that_is_too_long_is_refused(tmp_path: Path, opened: Any) -> None:
    reader, writer = await opened(unix(tmp_path))
    writer.write((frames.MAX_FRAME + 1).to_bytes(4, "big"))
    assert (await receive(reader))["error"]["code"] == "PE023"
    assert await reader.read() == b""


async def test_a_caller_who_goes_away_is_not_worked_for(tmp_path: Path, opened: Any) -> None:
    gate = Gate()
    _, writer = await opened(unix(tmp_path, gate))
    writer.write(frame(b"1"))
    await asyncio.wait_for(gate.entered.wait(), 5)
    writer.close()
    await asyncio.wait_for(gate.cancelled.wait(), 5)


async def test_connections_are_bounded(tmp_path: Path, opened: Any) -> None:
    door = unix(tmp_path, most=1)
    first, writer = await opened(door)
    writer.write(frame(b"1"))
    await receive(first)
    second, _ = await opened(door)
    assert (await receive(second))["error"]["code"] == "PE012"


async def test_tcp_wants_the_token_first(opened: Any) -> None:
    reader, writer = await opened(tcp())
    writer.write(frame(b'{"token":"open sesame"}') + frame(b"1"))
    assert await receive(reader) == {"ok": True}
    assert await receive(reader) == {"echo": 1}


@pytest.mark.parametrize("shown", [b'{"token":"open"}', b"{}", b"1", b"no json", b'{"token":null}'])
async def test_tcp_refuses_other_tokens(opened: Any, shown: bytes) -> None:
    reader, writer = await opened(tcp())
    writer.write(frame(shown) + frame(b"1"))
    assert (await receive(reader))["error"]["code"] == "PE010"
    assert await reader.read() == b""


async def test_tcp_does_not_wait_for_the_token_for_long(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "TOKEN_TIMEOUT", 0.05)
    monkeypatch.setattr(frames, "SWEEP_INTERVAL", 0.02)
    reader, _ = await opened(tcp())
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await receive(reader)


def test_tcp_does_not_open_without_a_token() -> None:
    with pytest.raises(InvalidArgument, match="needs a token"):
        tcp_door(echo, "127.0.0.1", 0, token=None, max_connections=1)


async def test_a_connection_that_stops_in_the_middle_of_a_frame_is_closed(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "FRAME_TIMEOUT", 0.05)
    monkeypatch.setattr(frames, "SWEEP_INTERVAL", 0.02)
    reader, writer = await opened(unix(tmp_path))
    writer.write(frame(b"123")[:5])
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await receive(reader)


async def test_closing_answers_what_is_in_hand_and_removes_the_socket(tmp_path: Path, opened: Any) -> None:
    gate = Gate()
    door = unix(tmp_path, gate)
    reader, writer = await opened(door)
    idle, _ = await opened(door)
    writer.write(frame(b"1"))
    await asyncio.wait_for(gate.entered.wait(), 5)
    closing = asyncio.create_task(door.close(5))
    assert await idle.read() == b""
    gate.open.set()
    assert await receive(reader) == 1
    await closing
    assert not (tmp_path / "s").exists()


async def test_a_socket_left_by_a_killed_sidecar_is_taken_over(tmp_path: Path, opened: Any) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    reader, writer = await opened(unix(tmp_path))
    writer.write(frame(b"1"))
    assert await receive(reader) == {"echo": 1}


async def test_a_socket_in_use_and_a_file_are_left_alone(tmp_path: Path, opened: Any) -> None:
    await opened(unix(tmp_path))
    with pytest.raises(InvalidArgument, match="another sidecar"):
        await unix(tmp_path).open()
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "s").write_text("mine")
    with pytest.raises(InvalidArgument, match="no socket"):
        await unix(tmp_path / "file").open()
    assert (tmp_path / "file" / "s").read_text() == "mine"


async def test_the_socket_of_the_next_sidecar_stays(tmp_path: Path, opened: Any) -> None:
    gate = Gate()
    old, new = unix(tmp_path, gate), unix(tmp_path)
    reader, writer = await opened(old)
    writer.write(frame(b"1"))
    await asyncio.wait_for(gate.entered.wait(), 5)
    closing = asyncio.create_task(old.close(5))
    await asyncio.sleep(0)
    next_reader, next_writer = await opened(new)  # while the old one still works
    gate.open.set()
    assert await receive(reader) == 1
    await closing
    next_writer.write(frame(b"2"))
    assert await receive(next_reader) == {"echo": 2}
    again, _ = await opened(new)
    assert not again.at_eof()


async def test_a_socket_that_replaced_ours_is_left_alone(tmp_path: Path, opened: Any) -> None:
    old, new = unix(tmp_path), unix(tmp_path)
    await old.open()
    (tmp_path / "s").unlink()
    await opened(new)
    await old.close(0)
    assert (tmp_path / "s").is_socket()


@pytest.mark.parametrize(
    ("host", "spelt"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("localhost", "localhost:80")]
)
def test_addresses_are_spelt_as_on_the_web(host: str, spelt: str) -> None:
    assert frames.endpoint(host, 80) == spelt


async def test_an_ipv6_door_tells_its_address_in_brackets() -> None:
    door = tcp_door(echo, "::1", 0, token="open sesame", max_connections=1)
    try:
        await door.open()
    except InvalidArgument:
        pytest.skip("no IPv6 here")
    assert door.address.startswith("[::1]:")
    await door.close(0)

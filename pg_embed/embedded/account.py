"""The operating system user that PostgreSQL runs as: ourselves, or another where we are root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pg_embed.errors import PgEmbedError

PREFERRED = "postgres"  # the distribution's own, where its packages made one
CREATED = "pg_embed"  # made where there is none
CREATE_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Account:
    """Who runs PostgreSQL; `other` tells that it is not the user of this process."""

    uid: int
    gid: int
    other: bool

    def own(self, path: Path) -> None:
        """Hand a file or folder that we made to this user; of a link the link, not what it leads to."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_opened(self, descriptor: int) -> None:
        """The same for one that is open, whatever its name leads to by now."""
        if self.other:
            os.fchown(descriptor, self.uid, self.gid)

    def popen(self, arguments: Sequence[str | Path], *, cwd: Path, output: int) -> subprocess.Popen[str]:
        """Start a program as this user, apart from our terminal, so that Ctrl-C is ours to answer."""
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=cwd,
            env=_environment(self.other),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            user=self.uid if self.other else None,
            group=self.gid if self.other else None,
            extra_groups=[] if self.other else None,
        )

    def can_enter(self, path: Path) -> bool:
        """Whether this user may go into a folder, or run a program."""
        if not self.other:
            return os.access(path, os.X_OK)
        test = self.popen(
            ["/bin/sh", "-c", 'test -x "$1"', "sh", path], cwd=Path("/"), output=subprocess.DEVNULL
        )
        return test.wait(timeout=CREATE_TIMEOUT) == 0


def choose_account(cluster: Path) -> Account:
    """Ourselves; as root, whom PostgreSQL refuses to serve: the owner of the cluster or a system user."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), other=False)
    if cluster.exists() and cluster.stat().st_uid != 0:
        owner = cluster.stat()
        return Account(owner.st_uid, owner.st_gid, other=True)
    entry = _lookup(PREFERRED) or _lookup(CREATED) or _create()
    return Account(entry.pw_uid, entry.pw_gid, other=True)


def _lookup(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _create() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=os.defpath + ":/usr/sbin:/sbin")
    if useradd is None:
        raise PgEmbedError(
            "PostgreSQL does not run as root, and there is no other user for it",
            hint=f"run this as an ordinary user, or make a system user named {CREATED}",
        )
    arguments = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", "--user-group", CREATED]
    subprocess.run(arguments, capture_output=True, timeout=CREATE_TIMEOUT, check=False)
    entry = _lookup(CREATED)  # another process may have been first
    if entry is None:
        raise PgEmbedError(
            f"the system user {CREATED} could not be made",
            hint="run this as an ordinary user, or make that user yourself",
        )
    return entry


def _environment(other: bool) -> dict[str, str]:
    """Ours without libpq's variables, which would move the server about, and another user's without our home.

    There its libpq would look for certificates, and fail where it may not look.
    """
    ours = ("PG", "HOME") if other else ("PG",)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "LC_ALL": "C"}

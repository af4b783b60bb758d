"""A minimal Debian trixie by debootstrap, and roots that are made of it once and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from platformdirs import user_cache_path

MIRROR = "http://deb.debian.org/debian"
BUILDING = 900.0  # seconds
CERTIFICATES = "/etc/ssl/bundle.pem"  # within a root, in a network whose certificates are its own


@pytest.fixture(scope="session")
def trixie() -> Path:
    """A minimal trixie; skips where it cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("debootstrap and chroot need root")
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed: apt install debootstrap")
    try:
        urllib.request.urlopen(f"{MIRROR}/dists/trixie/Release", timeout=10).close()
    except OSError as exc:
        pytest.skip(f"{MIRROR} cannot be reached: {exc}")
    return kept("base", debootstrapped)


def debootstrapped(folder: Path) -> None:
    """A minimal trixie in a folder, made once and kept."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "trixie", str(folder), MIRROR],
        check=True,
        capture_output=True,
        timeout=BUILDING,
    )


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; it gets its name when it is whole."""
    folder = user_cache_path("pg_embed") / "trixie" / name
    if not folder.is_dir():
        unfinished = folder.with_name(f"{name}.{os.getpid()}")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def doubled(base: Path, folder: Path) -> None:
    """A root like another, which a container could be."""
    subprocess.run(["cp", "-a", str(base), str(folder)], check=True)
    (folder / "dev" / "shm").chmod(0o1777)  # Docker mounts one
    if bundle := os.environ.get("PIP_CERT"):
        (folder / "etc" / "ssl").mkdir(exist_ok=True)
        shutil.copy(bundle, folder / CERTIFICATES.lstrip("/"))


def copy(source: Path, target: Path) -> None:
    """A folder's content into the target, a file into it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def in_root(root: Path, environment: dict[str, str], *words: str, user: str | None = None) -> list[str]:
    """What runs a command in a root, with these variables and no others."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    who = [f"--userspec={user}"] if user else []
    return ["chroot", *who, str(root), "/usr/bin/env", "-i", *variables, *words]

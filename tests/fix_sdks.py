"""The providers' own packages, which the tests compare ours with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

SDKS = ("cohere==7.3.1", "voyageai==0.5.0")  # too heavy, with what they bring, for the extra `dev`
FETCH_TIMEOUT = 400.0  # seconds
CALL_TIMEOUT = 100.0  # seconds
CALLER = Path(__file__).parent / "providers" / "sdk_caller.py"
CallSdk = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def sdk_folder() -> Path:
    """A folder of the user's cache with the packages, fetched by pip the first time."""
    wanted = json.dumps([*SDKS, sys.version])
    folder = user_cache_path("pg_embed") / "sdks" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            fetched = Path(made) / "packages"
            fetch(fetched)
            if not folder.is_dir():  # another run may have been quicker
                fetched.rename(folder)
    return folder


def fetch(folder: Path) -> None:
    """Install the packages into a folder; the test is skipped where pip cannot."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *SDKS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not fetch {' and '.join(SDKS)} within {FETCH_TIMEOUT:g} seconds")
    if done.returncode:
        pytest.skip(f"pip cannot fetch {' and '.join(SDKS)}: {done.stderr.strip()[-300:]}")


@pytest.fixture
def call_sdk(request: pytest.FixtureRequest) -> CallSdk:
    """Let a provider's package make calls in a process of its own, and give what it understood."""

    def call(sdk: str, base_url: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        where = {} if sdk == "openai" else {"PYTHONPATH": str(request.getfixturevalue("sdk_folder"))}
        done = subprocess.run(
            [sys.executable, str(CALLER)],
            input=json.dumps({"sdk": sdk, "base_url": base_url, "calls": calls}),
            env={"PATH": "/usr/bin:/bin", **where},
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers

    return call

"""The providers' own packages, which the tests compare ours with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.packages import fetched

SDKS = ("cohere==7.3.1", "voyageai==0.5.0")  # too heavy, with what they bring, for the extra `dev`
CALL_TIMEOUT = 100.0  # seconds
CALLER = Path(__file__).parent / "providers" / "sdk_caller.py"
CallSdk = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def sdk_folder() -> Path:
    """Where the packages lie."""
    return fetched(*SDKS, dependencies=True)


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

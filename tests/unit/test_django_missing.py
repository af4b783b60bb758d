"""Without Django, what needs it says how to get it."""

from __future__ import annotations

import subprocess
import sys

HIDDEN = """
import sys
sys.modules["django"] = None
try:
    import pg_embed.django
except Exception as error:
    print(type(error).__name__, error.hint)
"""


def test_a_missing_django_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.split(maxsplit=1) == ["MissingExtra", "pip install 'pg-embed[django]'\n"]

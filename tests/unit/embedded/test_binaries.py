"""Where PostgreSQL's programs come from."""

from __future__ import annotations

import sys

import pytest

from pg_embed.embedded import binaries
from pg_embed.errors import MissingExtra


def test_binaries_are_found_without_importing_their_package() -> None:
    assert (binaries.find_binaries() / "bin" / "initdb").exists()
    assert binaries.PACKAGE not in sys.modules


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtra) as caught:
        binaries.find_binaries()
    assert caught.value.hint == "pip install 'pg-embed[embedded]'"

"""How the values of `halfvec[]` are read and written: a vector for each token of a text."""

from __future__ import annotations

import re
from typing import Any

from pgvector import HalfVector

TOKEN = re.compile(r"\[[^\]]*\]")


class TokenVectors:
    """Lists of vectors, with the methods that pgvector's own classes have for one."""

    @staticmethod
    def _from_db(value: Any) -> list[Any] | None:
        """Read what comes as a text, or as a list of vectors."""
        if value is None:
            return None
        return [
            HalfVector._from_db(one) for one in (TOKEN.findall(value) if isinstance(value, str) else value)
        ]

    @staticmethod
    def _to_db(value: Any) -> str | None:
        """A text as Postgres reads arrays."""
        if value is None:
            return None
        return "{" + ",".join(f'"{HalfVector._to_db(one)}"' for one in value) + "}"

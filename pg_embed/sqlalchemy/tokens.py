"""The type of a column that holds a vector for each token of a text: `halfvec[]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ARRAY, Dialect
from sqlalchemy.types import TypeDecorator

TOKEN = re.compile(r"\[[^\]]*\]")


class TokenVectors(TypeDecorator[Any]):
    """An array of HALFVEC, whose values are lists of vectors, whether or not the driver knows the type."""

    impl = ARRAY
    cache_ok = True

    def __init__(self, dim: int) -> None:
        super().__init__(HALFVEC(dim), dimensions=1)
        self.dim = dim

    def __repr__(self) -> str:
        return f"TokenVectors(dim={self.dim})"

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Read what comes as a text, or as a list of vectors."""

        def process(value: Any) -> Any:
            if value is None:
                return None
            return [
                HalfVector._from_db(one)
                for one in (TOKEN.findall(value) if isinstance(value, str) else value)
            ]

        return process

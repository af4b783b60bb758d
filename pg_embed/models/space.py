"""The space id: a fingerprint of all that changes a model's vectors."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def space_id(family: str, **facts: Any) -> str:
    """The same for the same facts on every machine; facts are JSON types; None says nothing."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    canonical = json.dumps([family, told], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]

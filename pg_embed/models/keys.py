"""Keys of hosted models: options name them, the sidecar's environment or a file holds them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pg_embed.errors import InvalidArgument, ModelMisconfigured

KEY_OPTIONS = {"api_key", "apikey", "key", "token", "secret", "password", "authorization", "bearer"}
KEY_VALUE = re.compile(r"(?:(?:sk|pa|al|hf|gsk|xai)[-_]|jina_)[\w-]{12,}|Bearer\s.*", re.IGNORECASE)
COHERE_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9]{40}")  # known by its mixture alone
VARIABLE = re.compile(r"PG_EMBED_[A-Z0-9_]{0,50}KEY|[A-Z][A-Z0-9_]{0,50}_API_KEY")
KEY = re.compile(r"[!-~]{1,4096}")  # one line of visible ASCII
HINT = "put the key into the sidecar's environment, and the variable's name into the option api_key_env"


def refuse_keys(options: Mapping[str, Any]) -> None:
    """Options are stored in the database and shown to users: a key among them is an error."""
    for name, value in options.items():
        if name.lower() in KEY_OPTIONS or (isinstance(value, str) and _looks_like_a_key(value)):
            raise InvalidArgument("a key must not stand in a model's options", hint=HINT)


def read_key(variable: str | None, file: str | None) -> str | None:
    """The key from the one place that is named; None if none is."""
    if variable is not None and file is not None:
        raise InvalidArgument("give api_key_env or api_key_file, not both")
    if variable is not None:
        return _from_environment(variable)
    return None if file is None else _from_file(Path(file).expanduser())


def _looks_like_a_key(value: str) -> bool:
    return bool(KEY_VALUE.fullmatch(value) or COHERE_KEY.fullmatch(value))


def _from_environment(variable: str) -> str:
    if not VARIABLE.fullmatch(variable):  # no other variable can be sent away by who may create models
        raise InvalidArgument(
            "api_key_env must name an environment variable like PG_EMBED_…_KEY or …_API_KEY",
            hint=HINT,
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ModelMisconfigured(
            f"the environment variable {variable} is not set where the model is loaded",
            hint="set it for the sidecar or command that loads the model, or name a file by api_key_file",
        )
    return _checked(key, variable)


def _from_file(file: Path) -> str:
    try:
        return _checked(file.read_text(encoding="utf-8").strip(), str(file))
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelMisconfigured(f"the key file {file} cannot be read: {type(exc).__name__}") from None


def _checked(key: str, source: str) -> str:
    if not KEY.fullmatch(key):
        raise ModelMisconfigured(f"{source} holds no key: one line of visible ASCII characters is expected")
    return key

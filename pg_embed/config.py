"""Settings, read from the environment: one class a room, each variable PG_EMBED_<ROOM>_<SETTING>."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from pg_embed.engine.settings import EngineSettings
from pg_embed.errors import InvalidArgument
from pg_embed.serve.settings import ServeSettings
from pg_embed.worker.settings import WorkerSettings

PREFIX = "PG_EMBED_"
LAST_PORT = 65_535
MAY_BE_ZERO = {"busy_poll", "grace", "http_port", "load_pause", "memo_size", "tcp_port"}


@dataclass(frozen=True)
class LogSettings:
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] | None = (
        None  # info for serve and worker, else warning
    )
    format: Literal["text", "json"] = "text"


class Unsound(ValueError):
    """a setting of a room has a value that its type allows and its meaning does not"""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


def read_mode(text: str) -> int:
    """A file's mode as chmod takes it; who may do what, and nothing more."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is not a mode such as 0660")
    return int(text, 8)


def _octal(room: Any) -> Any:
    """Modes are written as chmod takes them."""
    if isinstance(room, dict) and isinstance(room.get("socket_mode"), str):
        try:
            return {**room, "socket_mode": read_mode(room["socket_mode"])}
        except ValueError as exc:
            raise Unsound("socket_mode", str(exc)) from exc
    return room


def _sound(room: Any) -> Any:
    for field in fields(room):
        value = getattr(room, field.name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in MAY_BE_ZERO):
            raise Unsound(field.name, f"must be greater than zero, not {value:g}")
        if field.name.endswith("_port") and value > LAST_PORT:
            raise Unsound(field.name, f"must be a port up to {LAST_PORT}, not {value:g}")
    return room


Sound = AfterValidator(_sound)


class Settings(BaseSettings):
    """All settings that have no place on a command line, and the defaults of those that have."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,  # as compose files give variables that are not set
    )

    debug: bool = False  # show tracebacks
    log: LogSettings = LogSettings()
    engine: Annotated[EngineSettings, Sound] = EngineSettings()
    serve: Annotated[ServeSettings, BeforeValidator(_octal), Sound] = ServeSettings()
    worker: Annotated[WorkerSettings, Sound] = WorkerSettings()


def read() -> Settings:
    """The settings of this process's environment; what is wrong in it is named."""
    try:
        return Settings()
    except SettingsError as exc:
        raise InvalidArgument(
            f"a variable of pg_embed cannot be read: {exc}",
            hint=f"settings are {PREFIX}<ROOM>_<SETTING>, such as {PREFIX}LOG_LEVEL",
        ) from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        unsound = first.get("ctx", {}).get("error")
        parts = [*first["loc"], *([unsound.setting] if isinstance(unsound, Unsound) else [])]
        name = PREFIX + "_".join(str(part) for part in parts).upper()
        message = str(unsound) if isinstance(unsound, Unsound) else first["msg"]
        raise InvalidArgument(
            f"the setting {name}: {message}", hint="correct the variable, or unset it"
        ) from exc


def variables() -> dict[str, Any]:
    """Every variable with its default, as the reference lists them."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name == "debug":
            found[f"{PREFIX}DEBUG"] = field.default
            continue
        for part in fields(field.default):
            value = getattr(field.default, part.name)
            found[f"{PREFIX}{name}_{part.name}".upper()] = str(value) if isinstance(value, Path) else value
    return found

"""Events on standard error, for people or as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from pg_embed.log import ROOT

if TYPE_CHECKING:
    from pg_embed.config import LogSettings

CONTROLS = [*range(32), *range(127, 160), 0x2028, 0x2029]  # with those that end a line to some readers
SPELLED = {code: repr(chr(code))[1:-1] for code in CONTROLS}
FIELD = f"{ROOT}_"  # before the name of an event's field in a record
NOISY = ("psycopg.pool", "stamina")  # what they warn of, our own events or errors tell


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record: time, level, event, message, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None),
            "message": record.getMessage(),
        }
        told |= {
            key.removeprefix(FIELD): value for key, value in vars(record).items() if key.startswith(FIELD)
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for each record, whatever stands in the texts that it tells of, and lines for a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line; control characters in it are spelled, for keys and errors are others' texts."""
        return super().formatMessage(record).translate(SPELLED)


def set_up(settings: LogSettings, level: str = "warning") -> None:
    """Send our events to standard error, from `level` up unless the settings name one; others' warnings."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(event)s %(message)s", defaults={"event": "-"})
    handler.setFormatter(JsonFormatter() if settings.format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(ROOT).setLevel((settings.level or level).upper())


def told(level: int, sentence: str, **fields: Any) -> bool:
    """Write a sentence that is no event as a line of JSON, if that is what the log has."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            record = logging.LogRecord(ROOT, level, "", 0, sentence, None, None)
            vars(record).update({f"{FIELD}{name}": value for name, value in fields.items()})
            handler.handle(record)
            return True
    return False


def quiet() -> None:
    """Let libraries be silent about what they try again, in commands that set up no log, too."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)

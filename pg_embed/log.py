"""The events that pg_embed logs, each with its level, its fields, and when it comes.

Names and fields are API: `extra={"event": …}` carries them on every line.

- worker_started (info; worker): a worker is connected and looks for work
- worker_waiting (warning; worker): the server is a standby; the worker begins when it is promoted
- worker_stopping (info; worker, in_flight): a worker was asked to stop and finishes its work
- worker_stopped (info; worker): a worker has ended
- worker_disconnected (warning; worker, error, retry_in): the database was lost; the worker connects again
- batch_done (debug; vectorizer, lane, rows, written, seconds): vectors of a batch are written
- batch_postponed (warning; vectorizer, lane, rows, error, reason, retry_in): a batch failed for now
- batch_lost (error; vectorizer, lane, rows, error): a batch ended by an unexpected error; leases run out
- row_failed (warning; vectorizer, key, code, error): a row was given up and is listed in embed.failures
- vectorizer_state (info, warning; vectorizer, state, was, reason): active, paused, stopped (its table was
  changed), blocked (its table cannot be read or written), refused (a model's account), spent (its budget)
- maintenance_failed (error; error): a duty of maintenance failed; it is done again later
- rows_rescued (warning; entries): entries of a worker that died are due again
- model_loading (info; model, family): a model is being loaded
- model_loaded (info; model, family, seconds, dimensions): a model is ready
- model_stuck (warning; model, family): it takes too long to load; other models no longer wait for it
- model_failed (error; model, family, error): a model cannot be loaded
- out_of_memory (warning; tokens, budget): a pass of a local model had no room; smaller ones are tried
- limit_exceeded (warning; model, retry_in): a provider had too many calls; nobody calls it for a while
- limits_unavailable (warning; error): limits cannot be read or reserved; calls go without them until they can
- reuse_unavailable (warning; error): known vectors cannot be read or kept; all texts are embedded
- model_paused (warning; model, error): a provider refuses the account; one call a minute tries again
- usage_lost (warning; error): what was used could not be told to the database; it is told later
- door_opened (info; door, address): a door of the sidecar accepts requests
- door_failed (warning; door, error, retry_in): the mailbox lost its database, and connects again
- door_failed (error): a door ended by an unexpected error, or could not be closed
- request_failed (error; error): a request ended by an unexpected error
"""

from __future__ import annotations

import logging
from typing import Any

ROOT = "pg_embed"


def logger(room: str) -> logging.Logger:
    """The logger of a room."""
    return logging.getLogger(f"{ROOT}.{room}")


def event(log: logging.Logger, level: int, name: str, message: str, **fields: Any) -> None:
    """Write one event: a sentence for people, the name and fields for machines."""
    if log.isEnabledFor(level):
        log.log(
            level,
            message,
            extra={"event": name, **{f"pg_embed_{key}": value for key, value in fields.items()}},
        )

"""Runs in pgai's own environment: install its schema, or work one vectorizer's queue off and time it.

python pgai_driver.py install DSN
python pgai_driver.py work DSN WARM_UP_ID ID
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import pgai  # type: ignore[import-not-found]
import structlog  # type: ignore[import-not-found]
from ddtrace.trace import tracer  # type: ignore[import-not-found]
from pgai.vectorizer.worker import Worker  # type: ignore[import-not-found]

tracer.enabled = False  # as pgai's own command does
assert pgai.__file__ is not None
os.environ["TIKTOKEN_CACHE_DIR"] = str(
    Path(pgai.__file__).parent / "vectorizer" / "tiktoken_cache"
)  # no download
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # stdout is for the result
)


async def work(dsn: str, vectorizer: int) -> float:
    worker = Worker(dsn, once=True, vectorizer_ids=[vectorizer], exit_on_error=True)
    start = time.perf_counter()
    error = await worker.run()
    if error is not None:
        raise error
    return time.perf_counter() - start


async def warm_then_timed(dsn: str, warm_up: int, vectorizer: int) -> float:
    await work(dsn, warm_up)
    return await work(dsn, vectorizer)


if __name__ == "__main__":
    verb, dsn, *rest = sys.argv[1:]
    if verb == "install":
        pgai.install(dsn)
    else:
        print(json.dumps({"seconds": asyncio.run(warm_then_timed(dsn, int(rest[0]), int(rest[1])))}))

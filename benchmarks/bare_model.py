"""A process that has a model in memory and nothing else of ours: what a worker's memory is compared with.

Loads the checkpoint with the library alone, encodes texts, prints its resident bytes, and ends.
`python -m benchmarks.bare_model CHECKPOINT ROWS`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

from benchmarks.texts import rows

BATCH = 32


def resident(process: int) -> int:
    """Bytes of a process in memory, with what it shares."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def main() -> None:
    checkpoint, count = sys.argv[1:]
    model = SentenceTransformer(checkpoint, device="cpu")
    model.encode(rows(int(count)), batch_size=BATCH, show_progress_bar=False)
    print(resident(os.getpid()))


if __name__ == "__main__":
    main()

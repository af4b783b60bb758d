"""A process that has a model in memory and nothing else of ours: what a worker's memory is compared with.

Loads the checkpoint with the library alone, encodes texts, prints how many bytes of it were in memory at most
and how many are in the end, and ends. `python -m benchmarks.bare_model CHECKPOINT ROWS BATCH`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

from benchmarks.texts import rows


def resident(process: int) -> int:
    """Bytes of a process in memory, with what it shares."""
    return _bytes(process, "VmRSS:")


def peak(process: int) -> int:
    """The most that they ever were, as the system counted them."""
    return _bytes(process, "VmHWM:")


def _bytes(process: int, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split(name)[1].split()[0]) * 1024


def main() -> None:
    checkpoint, count, batch = sys.argv[1:]
    model = SentenceTransformer(checkpoint, device="cpu")
    model.encode(rows(int(count)), batch_size=int(batch), show_progress_bar=False)
    print(peak(os.getpid()), resident(os.getpid()))


if __name__ == "__main__":
    main()

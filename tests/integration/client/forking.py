"""A program that uses a client, forks, and uses it on both sides; prints what each saw, in JSON."""

from __future__ import annotations

import json
import os
import signal
import sys

from pg_embed import Client
from pg_embed.records import ModelSpec

DEADLINE = 60  # seconds


def asked(client: Client) -> list[int]:
    """The server's process that answers some questions, one after the other."""
    found = []
    for _ in range(20):
        with client.connection() as connection:
            found += [row[0] for row in connection.execute("SELECT pg_backend_pid()")]
    return sorted(set(found))


def main() -> None:
    signal.alarm(DEADLINE)
    client = Client(sys.argv[1])
    local = Client(in_process=True, models=[ModelSpec("fake", "fake", {"dimensions": 4})])
    told = {"before": asked(client), "vectors": local.embed(["x"]).tolist()}
    reading, writing = os.pipe()
    if os.fork() == 0:
        signal.alarm(DEADLINE)
        told = {"child": asked(client), "childs_vectors": local.embed(["x"]).tolist()}
        for opened in (client, local):
            opened.close()
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    told["parent"] = asked(client)
    os.wait()
    told["after"] = asked(client)
    told |= json.loads(os.read(reading, 10_000))
    print(json.dumps(told))


if __name__ == "__main__":
    main()

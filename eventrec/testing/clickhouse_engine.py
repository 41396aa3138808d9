"""ClickHouse's engine, as a process of its own: a statement in JSON a line in, its rows or its error out.

A process has one engine at most, and its threads do not concern the tests.
"""

from __future__ import annotations

import json
import sys

import chdb


def main() -> None:
    """Answer until the input ends."""
    connection = chdb.connect(":memory:")
    for line in sys.stdin:
        try:
            found = connection.query(json.loads(line), "JSONCompactEachRow").bytes().decode()
            answer: dict[str, object] = {"rows": [json.loads(row) for row in found.splitlines()]}
        except RuntimeError as exc:
            answer = {"error": str(exc)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

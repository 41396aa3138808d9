"""The platform's two services in one: takes its events over HTTP, and answers its dashboard.

    python examples/platform_analytics/serve.py --to sqlite:///platform.db

`main.py` fills such a database. Beside the routes that every server of eventrec has, this one has those of `routes.py`:

    curl 'http://127.0.0.1:8093/overview'
    curl 'http://127.0.0.1:8093/users/weekly?start_date=2026-01-01'
"""

from __future__ import annotations

import argparse

import uvicorn

from catalogue import catalogue
from eventrec import EventRecorder
from eventrec.server import application
from routes import ROUTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="sqlite:///platform.db", help="the database, by its URL")
    parser.add_argument("--log", help="a log directory: then events are safe once they are answered")
    parser.add_argument("--port", type=int, default=8093)
    given = parser.parse_args()
    recorder = EventRecorder(given.to, log=given.log, layouts=catalogue.layouts)
    app = application(recorder, to=given.to, catalogue=catalogue, routes=ROUTES)
    uvicorn.run(app, host="127.0.0.1", port=given.port, server_header=False)


if __name__ == "__main__":
    main()

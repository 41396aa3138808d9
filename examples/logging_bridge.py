"""A program whose log lines become events in SQLite, beside whatever else it does with them.

    python examples/logging_bridge.py

Afterwards `sqlite3 events.db 'SELECT payload FROM logging'` shows them: those of `logging`, those of structlog, and
none of eventrec's own, which would otherwise record each other without end.
"""

import logging

import structlog

from eventrec import EventRecorder
from eventrec.bridges.loggers import RecordingHandler, RecordingProcessor


def main() -> None:
    with EventRecorder("sqlite:///events.db").sync() as recorder:
        # The standard library's: a handler like any other.
        logging.basicConfig(
            level=logging.INFO, handlers=[logging.StreamHandler(), RecordingHandler(recorder, table="logging")]
        )
        logging.getLogger("shop").info("order %d placed", 7, extra={"customer": "ada"})
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logging.getLogger("shop").exception("cannot split the bill")

        # structlog: a processor before the one that renders.
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                RecordingProcessor(recorder, table="logging"),
                structlog.processors.KeyValueRenderer(),
            ]
        )
        structlog.get_logger().warning("low on stock", item="apples", left=3)

        recorder.flush(timeout=5)
        print(recorder.status())


if __name__ == "__main__":
    main()

"""A program for users that records how it is used: `python examples/desktop_app.py [analytics disable]`.

It reads what the user does from stdin, a line each. The first time it says that it records; from the second time on it
sends, to the URL in DESKTOP_APP_TO, which would be posthog://KEY@eu.i.posthog.com in a real one.
"""

import os
import sys
import tempfile
from collections.abc import Sequence

from eventrec import Analytics, EventStruct
from eventrec.usage import run_analytics_command

APP = "eventrec-desktop-app"


class ActionTaken(EventStruct, frozen=True):
    """Which of its functions was used; never on what."""

    action: str


def main(arguments: Sequence[str]) -> int:
    """Run the program, or its command `analytics`."""
    if arguments[:1] == ["analytics"]:
        return run_analytics_command(APP, arguments[1:])
    to = os.environ.get("DESKTOP_APP_TO", f"jsonl:///{tempfile.gettempdir()}/{APP}")
    with Analytics(APP, to, properties={"edition": "community"}, opt_out=f"{APP} analytics disable") as analytics:
        analytics.identify()
        for line in sys.stdin:
            analytics.record(ActionTaken(line.split(maxsplit=1)[0] if line.strip() else "nothing"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

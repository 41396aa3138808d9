"""`python -m eventrec`: the same as the command `eventrec`."""

import sys

from eventrec.cli import main

if __name__ == "__main__":
    sys.exit(main())

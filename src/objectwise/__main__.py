"""``python -m objectwise`` is the command line."""

import sys

from objectwise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

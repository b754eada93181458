"""`python -m ekiben.cli` is `ekiben`."""

import sys

from ekiben.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

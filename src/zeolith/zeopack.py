"""``python -m zeolith.zeopack``: ``zeolith pack`` under the name that ZEO's command has."""

import sys

from zeolith.cli.main import ZEOPACK, run

if __name__ == "__main__":
    # As ZEO's command, which does not take the lack of all arguments for a mistake.
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    run(ZEOPACK)

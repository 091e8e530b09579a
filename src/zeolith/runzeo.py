"""``python -m zeolith.runzeo``: ``zeolith serve`` under the name that ZEO's server has."""

from zeolith.cli.main import RUNZEO, run

if __name__ == "__main__":
    run(RUNZEO)

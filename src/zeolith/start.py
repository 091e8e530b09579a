"""``python -m zeolith.start``: a server with the options of ZEO 2.0's ``start.py``."""

from zeolith.cli.main import START, run

if __name__ == "__main__":
    run(START)

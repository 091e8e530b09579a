"""``python -m zeolith`` is the command ``zeolith``."""

from .cli.main import run

run()

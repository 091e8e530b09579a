"""``python -m ZEO.runzeo``."""

from . import main

main()

"""Zeolith beside ZEO 6.2: the same work on the same machine, in one run.

``python -m benchmarks`` (or ``make bench``); ``docs/benchmarks.md`` says what each number means.
"""

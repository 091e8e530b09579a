"""Fuzzers; see docs/testing.md.  Each is a module to be run: ``python -m fuzz.fuzz_server``."""

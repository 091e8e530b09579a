"""The command ``zeolith``: options in, calls to the rooms below out; no logic of its own."""

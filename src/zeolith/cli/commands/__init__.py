"""One module for each command of ``zeolith``: its options, and whom they are passed to."""

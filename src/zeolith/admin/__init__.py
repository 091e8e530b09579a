"""What an administrator does to servers and databases; :mod:`zeolith.cli` calls it."""

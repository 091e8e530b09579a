"""What a configuration can be wrong about although every line of it can be read."""

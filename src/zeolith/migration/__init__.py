"""What would change for a configuration of ZEO's if Zeolith took it over."""

"""Those of ZEO's scripts that have a place here."""

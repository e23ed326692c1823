"""Local files that travel to containers."""

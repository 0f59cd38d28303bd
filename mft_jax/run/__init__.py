"""A run: its parts, its loop, its folder, its record."""

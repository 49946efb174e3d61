"""A run: its folder, its events as typed records, and progress for people."""

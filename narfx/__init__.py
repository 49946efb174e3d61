"""narfx."""

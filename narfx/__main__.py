"""``python -m narfx``."""

from narfx.cli import main

main()

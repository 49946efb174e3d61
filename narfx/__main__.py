"""``python -m narfx``."""

from narfx.cli.app import main

main()

"""``python -m ganger``: the same as the command ``ganger``."""

from .cli import main

main()

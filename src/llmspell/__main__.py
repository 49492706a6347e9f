"""`python -m llmspell` is the command `llmspell`."""

from __future__ import annotations

from llmspell.cli.main import main

if __name__ == "__main__":
    main()

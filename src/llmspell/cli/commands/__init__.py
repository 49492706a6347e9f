"""One module per command; `llmspell.cli.main.COMMANDS` says which. Importing this package imports none of them."""

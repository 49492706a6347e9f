"""The command line: argument tree, output rules, exit codes. Each command is a module of `commands`, lazily loaded."""

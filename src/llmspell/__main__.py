"""`llmspell` and `python -m llmspell`: the entry point.

Rule: nothing but what starts at once is imported above `main`, so that Ctrl-C during the rest is an exit code and no traceback.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""As `llmspell.cli.problems.ExitCode.INTERRUPTED`, which may not be there yet."""


def main() -> None:
    """Run the command line of this process, and end the process."""
    try:
        from llmspell.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

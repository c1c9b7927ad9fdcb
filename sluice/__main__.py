"""The `sluice` program: takes care of Ctrl-C first, then loads and runs the commands.

Loading takes a third of a second, in which Python's own handler would show a traceback.
"""

import importlib
import os
import signal

# What a shell gives to a program that SIGINT ended.
INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command that the arguments name.

    Ctrl-C ends the process at once with INTERRUPTED, until the command has a handler of its own.
    """
    # A shell ignores SIGINT for what it starts in the background, and that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # No exception: raised inside a callback or an import it would be shown or be lost. Nor
        # SIG_DFL, which does not end the first process of a container.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    importlib.import_module("sluice.commands").main()


if __name__ == "__main__":
    main()

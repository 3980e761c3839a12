"""A process that has torch loaded and forks itself for every command it reads, so that many can be killed in seconds.

Each line of its input is a command of ``astseg``, as JSON. The command runs in a process group of its own; a line with
the number of the process goes out when it starts, and one with its exit code (minus the signal) when it ends. States
are saved after every step.
"""

import json
import os
import signal
import sys

# Loaded before the fork; an optimiser would otherwise load the last of them, which takes seconds.
import torch._dynamo  # noqa: F401

import astseg.cli.train  # noqa: F401
from astseg.cli import main as cli
from astseg.training import logging, steps


def main() -> None:
    steps.SAVE_SECONDS = -1.0
    logging.LOG_EVERY = 2
    for line in sys.stdin:
        words = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os._exit(cli.run(words))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

"""The command line, whose second process is killed in a step unless torchrun has restarted it:
``python -m tests.ranks.killed_once STEP ARGUMENT...``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from zpyro.training.trainer import Trainer
from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]


def kill_in(number: int) -> None:
    """Let the system end this process before a step is complete."""
    update = Trainer._update_all

    def killed(self: Trainer, *arguments: Any) -> Any:
        if self.state.step + 1 == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *arguments)

    Trainer._update_all = killed


if __name__ == "__main__":
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        kill_in(int(sys.argv[1]))
    main(sys.argv[2:])

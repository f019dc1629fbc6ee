"""``python -m zpyro_cli``, for torchrun and for where no scripts are installed."""

import os

from .main import main

if __name__ == "__main__":
    if "RANK" in os.environ:
        # Every process would warn that all weights are used; read once, when torch is loaded.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    main(prog_name="zpyro")

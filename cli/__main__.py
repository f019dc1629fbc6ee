"""``python -m zpyro_cli``, for torchrun and for where no scripts are installed."""

from .main import main

if __name__ == "__main__":
    main(prog_name="zpyro")

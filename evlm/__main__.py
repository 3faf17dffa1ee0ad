"""`python -m evlm edit | models | doctor`: the engine without ComfyUI."""

import sys

from .cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

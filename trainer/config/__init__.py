"""The recipe and its settings."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    recipe="RECIPES Config Phase Source load_config",
    settings="build override read_yaml write_yaml",
)

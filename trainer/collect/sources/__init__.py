"""What lies on the disk, one file a format, each read into `Item`s."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    item="Item Media",
    kinds="KINDS items",
)

"""One to four words that ask for an edit: of an instruction, or of a list where there is none."""

from __future__ import annotations

import re

MOST = 4  # words of a text reference (EVLM, Figure 9)

WORDS: dict[str, tuple[str, ...]] = {
    "transformation": (
        "older", "made of glass", "a wooden one", "broken", "half its size", "fully grown", "melting",
        "a toy", "freshly painted", "made of ice", "the same, asleep", "a statue",
    ),
    "removal": ("empty", "nothing behind it", "no people", "without clutter", "only the main thing", "alone"),
    "addition": ("a companion", "something to sit on", "fresh flowers", "a lit candle", "birds", "a red hat"),
    "weather": ("heavy snow", "fog", "after the rain", "a storm coming", "late sunlight", "a frosty morning"),
    "style": ("watercolour", "pencil sketch", "comic book", "oil painting", "a woodcut", "pixel art"),
    "texture": ("rusted", "green threads", "velvet", "cracked paint", "mossy", "brushed steel"),
    "layout": ("more to the left", "closer together", "swapped", "in a row", "upside down", "further back"),
}  # fmt: skip
"""Where an item says nothing: a few for each edit type, in our words."""

_LEADING = re.compile(
    r"^(?:please\s+)?(?:make|turn|change|add|remove|replace|put|let|have|give|convert|set|it|the|a|an|to|into|"
    r"with|of|as|be)\b[\s,]*",
    re.IGNORECASE,
)


def shortened(instruction: str) -> str:
    """The last one to four words of an instruction that say something: "" where there are none."""
    text = " ".join(instruction.split()).rstrip(".!?;, ")
    while (rest := _LEADING.sub("", text)) and rest != text:
        text = rest
    return " ".join(text.split()[-MOST:])

"""Every word of every wing of the drawn world, in one list: what the tokenizers of reasoner, editor and
detector are made of.

A vocabulary grows by all wings at once, and before a training: its new rows begin as the mean of the old ones
(`bundle.grow`), and the texts of before are read as before.
"""

from __future__ import annotations

from collections.abc import Iterable

from .scene import CELLS, COLOURS, DIRECTIONS, GROUNDS, SHAPES, SIZES, STYLES, TEXTURES, WEATHERS
from .solid import SOLIDS

ORDERS = "make the replace with a remove add at move change weather ground to turn picture into and it of an"
"""Of the canonical instructions: all that the editor has to read."""

STEPS = "; then keep as is"
"""Of instructions of several steps, or of none."""

DOUBLE = "then do this that too also like match and +"
CONFLICT = "the words say but the picture ; no rule , so for wins win"
WHAT_IF = """
    what if the were dropped let go of loses its hold all this under water tide comes in flood it became heavy
    gains weight weighed a ton an hour later after once passes tonight night wait until dusk next morning was
    midwinter spring years sun stood on moment and someone pushed push give shove rubbed off touches paint
    spills taken away is gone pull out rained for week rain never stops weeks then ? panel comes what
    below nothing free to stays stay stands beside small large things sink ones have no room up goes turns
    keeps fades paler colour both are give gives passes it rolls moves each as moved one cell from more falls
    already makes went left leave again story
    drop slips nothing holds lost let put sea a over in weighs more is heavy as lead wait one when at morning
    once year on moment gets shoves got were leaves spilled some rubbed rub take under rest pulled somebody
    pulls below gone rains goes it happens go came here
"""
"""Of the hypothetical wordings, and of the facts that their traces state."""

SOLID = "view views above beside front behind turned solid scene"

SKY = "sky"
"""What a scene of solids has besides ground and weather."""


def known_words() -> tuple[str, ...]:
    """What the scenes and the canonical instructions of a flat world are made of."""
    lists = (SHAPES, COLOURS, TEXTURES, SIZES, GROUNDS, WEATHERS, STYLES, CELLS, tuple(DIRECTIONS), (ORDERS,))
    return _distinct(entry for entries in lists for entry in entries)


def all_words() -> tuple[str, ...]:
    """Every word of every wing, sorted."""
    return _distinct((*known_words(), *SOLIDS, SKY, STEPS, DOUBLE, CONFLICT, WHAT_IF, SOLID))


def editor_words() -> tuple[str, ...]:
    """What the editor is told: canonical instructions of every wing, and how steps are joined."""
    return _distinct((*known_words(), *SOLIDS, SKY, STEPS))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({word for text in texts for word in text.split()}))

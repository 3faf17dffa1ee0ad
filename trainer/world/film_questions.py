"""Questions about a film: an edit of its first frame, asked as about a still, of an original that moves."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from evlm.reason.messages import MAX_FRAMES, evenly
from evlm.request import Request

from .clips import FPS, OPERATIONS, Film, random_film
from .question import Question
from .questions import CATEGORIES, ask
from .rows import to_request
from .scene import Split

LENGTHS = (4, 6, 8, 12, 16, 16, 16, 24)  # frames of a film


@dataclass(frozen=True)
class FilmQuestion:
    """still: the question of the first frame, whose answer is the film's. shown: uint8 [F, S, S, 3], the
    frames that a reasoner is shown."""

    still: Question
    film: Film
    shown: NDArray[np.uint8]

    def request(self) -> Request:
        """As the engine asks it of a clip."""
        asked = to_request(self.still)
        frames = torch.from_numpy(self.shown).float() / 255
        return Request(frames, asked.prompt, asked.references, float(FPS))


def ask_film(
    rng: random.Random, split: Split, op: str | None = None, max_frames: int = MAX_FRAMES
) -> FilmQuestion:
    """A question of that split, of any category and length; every fifth film has a cut. op: of clips' own."""
    category = rng.choice(CATEGORIES)
    while True:
        question = ask(rng, split, op if op in OPERATIONS else None, category)
        if question.edit.op in OPERATIONS and question.edit.source.sign is None:
            break
    still = replace(question, category=question.category.removesuffix("->video"))
    film = random_film(rng, still.edit.source, rng.randrange(5), rng.choice(LENGTHS))
    which = evenly(film.frames, max_frames)
    return FilmQuestion(still, film, np.stack([film.render_frame(frame) for frame in which]))

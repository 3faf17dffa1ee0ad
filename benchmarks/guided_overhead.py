"""What guided writing costs a token, beside free writing on the same model, interleaved; medians.

    OMP_NUM_THREADS=1 python -m benchmarks.guided_overhead [--rounds 5] [--tokens 96] [--tokenizer FOLDER]

A Qwen2-VL of random weights, 12 layers of width 896, with a vocabulary of 151,669 tokens: of Qwen's size,
or Qwen's own from a FOLDER (ComfyUI has one: comfy/text_encoders/qwen25_tokenizer). Tokens are drawn by their
odds, so that random weights say something. The time is that from one forward of a single token to the next;
what the form leaves no choice about goes through the model in one forward of several, and is not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

VOCABULARY, BAR = 151_669, 1.05


def main(rounds: int, tokens: int, folder: str | None) -> int:
    import torch

    from evlm.reason.backbone import Backbone
    from evlm.reason.budgets import LEAST_OUTPUT, Budgets
    from evlm.reason.messages import SHORT
    from evlm.reason.reasoner import Guided, Reasoner, Sampling
    from evlm.request import Request
    from trainer.bundle.tiny_qwen import make_model, make_processor

    tokenizer = _tokenizer(folder)
    model = make_model(tokenizer, width=896, layers=12, head=64).eval().requires_grad_(False)
    processor = make_processor(tokenizer)
    backbone = Backbone(model, processor, "qwen2_vl", SHORT, "box-spans-8", 8, False, None, tuned=False)
    reasoner = Reasoner(backbone)
    request = Request(torch.rand(1, 64, 64, 3), "like this")

    def seconds(guided: Guided, seed: int) -> list[float]:
        """Of the steps of one token each."""
        budgets = Budgets(tokens - LEAST_OUTPUT, 0, 0, LEAST_OUTPUT)
        with single_steps() as spent:
            reasoner.generate(request, Sampling(tokens, 1.0, 1.0, seed, guided, budgets))
        return spent[2 : tokens - LEAST_OUTPUT]  # behind the first, and no deeper in the text than free ones

    sides: dict[Guided, list[float]] = {"never": [], "always": []}
    for number in range(rounds):
        for guided in random.Random(number).sample(list(sides), 2):
            sides[guided] += seconds(guided, number)
    free, held = (statistics.median(each) for each in sides.values())
    print(f"vocabulary {len(tokenizer):,}; {len(sides['never'])} and {len(sides['always'])} tokens")
    print(f"free {1000 * free:.1f} ms a token, guided {1000 * held:.1f} ms: {held / free:.3f}x (bar {BAR}x)")
    return 0 if held / free <= BAR else 1


@contextmanager
def single_steps(wait: Callable[[], None] = lambda: None) -> Iterator[list[float]]:
    """Inside it, seconds from each forward of a single token to the next forward come into the list that it
    gives, when it is left. wait: until the device has done what it was given."""
    from evlm.reason.decoding import Decoder

    spent: list[float] = []
    begun: list[tuple[float, int]] = []
    feed = Decoder.feed

    def timed(self: Any, tokens: Any) -> Any:
        wait()
        begun.append((time.perf_counter(), len(tokens)))
        return feed(self, tokens)

    with patch.object(Decoder, "feed", timed):
        yield spent
    spent += [after - before for (before, count), (after, _) in pairwise(begun) if count == 1]


def _tokenizer(folder: str | None) -> Any:
    if folder is not None:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return whole_vocabulary(VOCABULARY)


def whole_vocabulary(size: int) -> Any:
    """A byte-level tokenizer of `size` tokens: bytes, words that no text has, and Qwen's special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from trainer.bundle.tiny_qwen import SPECIAL

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"\u0120w{number}" for number in range(size - len(letters) - len(SPECIAL)))]
    core = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = {f"{name}_token": f"<|{name}|>" for name in ("vision_start", "vision_end")}
    pads = {f"{name}_token": f"<|{name}_pad|>" for name in ("image", "video")}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={**names, **pads, "vision_pad_token": "<|vision_pad|>", "start": "<|im_start|>"},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--tokenizer", metavar="FOLDER")
    options = parser.parse_args()
    raise SystemExit(main(options.rounds, options.tokens, options.tokenizer))

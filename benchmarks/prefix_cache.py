"""What the second prompt on one picture waits for its first token, beside the first prompt; medians.

    OMP_NUM_THREADS=1 python -m benchmarks.prefix_cache [--rounds 3] [--width 256]

A Qwen2-VL of random weights, 12 layers, a picture of 1024 x 1024 (1,024 tokens) and the short style. Each
round has a new picture; what both prompts write is compared with a reasoner that keeps nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time

BAR = 0.4
TOKENS = 8


def main(rounds: int, width: int) -> int:
    import torch

    from evlm.reason.backbone import Backbone
    from evlm.reason.messages import SHORT
    from evlm.reason.reasoner import Reasoner, Sampling
    from evlm.request import Request
    from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer

    tokenizer = make_tokenizer()
    model = make_model(tokenizer, width=width, layers=12, head=64, patch=16).eval().requires_grad_(False)
    processor = make_processor(tokenizer, size=1024, patch=16)
    backbone = Backbone(model, processor, "qwen2_vl", SHORT, "box-spans-8", 8, False, None, tuned=True)
    keeps, plain = Reasoner(backbone), Reasoner(backbone, prefix_bytes=0)
    sampling = Sampling(TOKENS, guided="never")

    def seconds(request: Request) -> float:
        """To the first token. Raises where the text is another than without what is kept."""
        times: list[float] = []
        start = time.perf_counter()
        text = keeps.generate(request, sampling, lambda _: times.append(time.perf_counter() - start)).text
        if text != plain.generate(request, sampling).text:
            raise SystemExit("the text is another one with what is kept")
        return times[0]

    waits: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        picture = torch.rand(1, 1024, 1024, 3, generator=torch.Generator().manual_seed(number))
        for prompt, wait in zip(("make it bluer", "remove what stands on the left"), waits, strict=True):
            wait.append(seconds(Request(picture, prompt)))
    first, second = (statistics.median(each) for each in waits)
    print(f"{rounds} pictures; kept {keeps.prefixes.nbytes / 2**20:.0f} MiB of at most 512")
    print(
        f"first token of a picture's first prompt {1000 * first:.0f} ms, of its second {1000 * second:.0f}:"
    )
    print(f"{second / first:.3f}x (bar {BAR}x)")
    return 0 if second / first <= BAR else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    raise SystemExit(main(options.rounds, options.width))

"""How often both edits of a true plan of two come out right by the bundled detector, segmenter and editor.

    OMP_NUM_THREADS=1 python -m benchmarks.double_plans [--rows 100] [--seed 3]

Double questions of the world's held-out compositions: two edits of different things in one request. The
reasoner is left out; in its place stands the world's own trace, so that what is measured is grounding,
segmenting and editing step after step. The exact reader of the world judges: right is a picture (a clip: each
of its frames) in which every place that one of the two edits touched shows what the edits leave there.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

BAR = 0.8


def main(rows: int, seed: int) -> int:
    import evlm
    from trainer.bundle.check_chain import edit_one
    from trainer.bundle.check_clips import load_chain
    from trainer.bundle.check_reasoner import of_kind
    from trainer.world.chain import Chain
    from trainer.world.traces import write_trace

    pipeline = load_chain(Path(evlm.__file__).parent / "bundled")
    right: dict[str, list[bool]] = defaultdict(list)
    outside = 0.0
    seconds: list[float] = []
    for number, question in enumerate(of_kind("double", rows, seed)):
        assert isinstance(question.edit, Chain)
        pipeline.reasoner.trace = write_trace(random.Random(number), question)
        outcome = edit_one(pipeline, question)
        assert outcome.planned
        kinds = {"both", "a clip" if question.category.endswith("->video") else "a picture"}
        for kind in kinds | {f"with {step.op}" for step in question.edit.steps}:
            right[kind].append(outcome.right)
        outside = max(outside, outcome.outside)
        seconds.append(outcome.seconds)
    share = {kind: sum(each) / len(each) for kind, each in right.items()}
    print(f"{rows} double plans, seed {seed}; both edits right: {share.pop('both'):.3f} (bar {BAR})")
    for kind, value in sorted(share.items()):
        print(f"  {kind:16s} {value:.3f} of {len(right[kind])}")
    middle = sorted(seconds)[rows // 2]
    print(f"greatest change outside both masks: {outside:g}; {middle:.2f} s an edit (median)")
    return 0 if sum(right["both"]) >= BAR * rows and outside == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    raise SystemExit(main(options.rows, options.seed))

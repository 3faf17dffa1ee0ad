"""What a step computes with: batches, packed forwards, log-probabilities, sampling, the reference, ranks."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    batch="Batch Collator",
    logprobs="Prompts sequence_logps",
    optim="make_optimizer schedule",
    ranks="Ranks",
)

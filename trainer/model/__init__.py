"""What a step computes with: batches, packed forwards, log-probabilities, sampling, the reference, ranks."""

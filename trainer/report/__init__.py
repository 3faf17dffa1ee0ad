"""What a run says: events, progress, curves, samples, one page."""

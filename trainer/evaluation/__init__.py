"""How right a reasoner is: accuracy with intervals, judges, results on disk."""

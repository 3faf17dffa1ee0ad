"""Benchmarks of reasoning edits over local copies: edited pictures, judges, the official arithmetic."""

"""The paper's tables by one command: answers, verdicts, people, and what all of them come to."""

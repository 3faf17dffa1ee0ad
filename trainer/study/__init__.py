"""The paper's comparisons in miniature, at equal compute."""

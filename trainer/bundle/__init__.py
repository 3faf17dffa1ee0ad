"""The recipes that trained what lies in evlm/bundled: one module a model, `train` and `check` in each."""

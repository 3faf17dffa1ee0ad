"""The recipes that trained what lies in evlm/bundled: one module a model, `train` and `check` in each."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    tiny_qwen="make_model make_processor make_tokenizer",
)

"""How likely a server's model found each token of its answer, from `logprobs` of OpenAI's chat completions.

`choices[0].logprobs.content` is a list of {"token", "logprob", "bytes", "top_logprobs"}, of a chunk or of a
whole answer (platform.openai.com/docs/api-reference/chat). The servers' forms, read in their source:

- vLLM (vllm/entrypoints/openai, `ChatCompletionLogProbsContent`): as above; -9999.0 where it has no number;
  the tokens of a thought and the end token are among them.
- llama.cpp (tools/server, `probs_vector_to_json`, since ggml-org/llama.cpp#10783): with "id"; a token that
  ends within a character has no entry, the next one has the whole; nothing at all where `top_logprobs` is 0;
  400 or 500 "logprobs is not supported with tools + stream".
- Ollama (openai/openai.go, `ChoiceLogprobs`, since 0.12.11): no "bytes" by its runner; older ones ignore the
  field.
"""

from __future__ import annotations

import codecs
import math
import re
from typing import Any

from .confidence import Written

LOGS = "logprobs"
TOP = "top_logprobs"
ASKED: dict[str, Any] = {LOGS: True, TOP: 1}
"""What is asked for. One alternative, for with none of them llama.cpp gives no probabilities either."""

_NONE = -9999.0
_PLAIN = re.compile(r"[^!-~]+")


class TokenLogs:
    """Collects the tokens of one answer."""

    def __init__(self) -> None:
        self._tokens: list[Written] = []
        self._odd = False  # something came that is no list of tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, logs: Any) -> None:
        """Takes a choice's `logprobs`, whatever it is. Raises nothing."""
        content = logs.get("content") if isinstance(logs, dict) else None
        for token in content if isinstance(content, list) else ():
            written = self._read(token)
            if written is None:
                self._odd = True
            else:
                self._tokens.append(written)

    def _read(self, token: Any) -> Written | None:
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            return None
        log, raw = token.get("logprob"), token.get("bytes")
        if isinstance(log, bool) or not isinstance(log, (int, float)) or math.isnan(log) or log > 1e-3:
            return None
        data = token["token"].encode("utf-8", "replace")
        if isinstance(raw, list) and all(type(each) is int and 0 <= each < 256 for each in raw):
            data = bytes(raw)
        return Written(self._decoder.decode(data), None if log == _NONE else float(log))

    def of(self, answer: str) -> tuple[Written, ...]:
        """The tokens that the answer was written with, without those of a thought before it; none where they
        are not the answer's."""
        text = "".join(token.text for token in self._tokens)
        begin = text.rfind(answer.strip())
        if self._odd or not text or not answer.strip():
            return ()
        if begin < 0:  # some servers lose a character that is cut into tokens
            plain = _PLAIN.sub("", answer)
            return tuple(self._tokens) if plain and _PLAIN.sub("", text).startswith(plain) else ()
        end, kept = 0, []
        for token in self._tokens:
            end += len(token.text)
            if end > begin:
                kept.append(token)
        return tuple(kept)


def without_logs(payload: dict[str, Any]) -> dict[str, Any]:
    """A question that does not ask for them."""
    return {key: value for key, value in payload.items() if key not in ASKED}

"""A teacher in this process: the bundled reasoner, or a Qwen-VL folder; asked by one thread at a time."""

from __future__ import annotations

import threading

from evlm.errors import EndpointError, RequestError
from evlm.models.zoo import resolve
from evlm.reason.messages import Chat
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.reason.remote import Completion


class LocalTeacher:
    """Answers as `RemoteReasoner.complete` does. name: of the model, as `evlm edit --models` takes it.
    traces: whether it is asked for traces, and held to their form. Raises ModelError."""

    def __init__(self, name: str, traces: bool = True) -> None:
        self.traces = traces
        self.path = resolve(name, "reasoner")
        self._lock = threading.Lock()
        self.reasoner = Reasoner.load(self.path)
        self.style, self.codec = self.reasoner.style, self.reasoner.codec
        self.tuned = self.reasoner.backbone.tuned

    def complete(self, chat: Chat, sampling: Sampling, messages: object = None) -> Completion:
        """messages: what an endpoint is sent. Raises EndpointError for what does not fit into its context."""
        try:
            with self._lock:
                style = self.style if self.traces else None
                generated = self.reasoner.answer(chat, sampling, None, style)
        except RequestError as error:
            raise EndpointError(str(error), 400) from None
        return Completion(generated, generated.asked)

"""A request becomes a trace, by a model on this machine or behind an endpoint."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    reasoner="Reasoner Reasoned Sampling",
    remote="RemoteReasoner",
    batch="reason_all Listener",
    messages="Chat PromptStyle build_messages get_style sample_clip",
    backbone="load_backbone",
    server="Server",
)

"""A reasoner behind an endpoint."""

from __future__ import annotations

import os
from typing import Any

from comfy_api.latest import io

from . import sockets
from .checks import checked

TRUST = ["base", "tuned"]
BOXES = ["auto", "own", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"]


class RemoteModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_RemoteModel",
            display_name="Remote EVLM",
            category=sockets.CATEGORY,
            description="A reasoner behind an OpenAI-compatible endpoint (vLLM, llama.cpp, a hosted one). "
            "The pictures and the prompt are sent there. The key is read from the environment variable "
            "EVLM_API_KEY and goes only to hosts that EVLM_API_HOSTS names; addresses inside your network "
            "need EVLM_ALLOW_PRIVATE_ENDPOINTS=1.",
            inputs=[
                io.String.Input(
                    "endpoint", default="https://", tooltip="https://host/v1; never put a key here."
                ),
                io.String.Input("model", default="", tooltip="The model's name at the endpoint."),
                io.Int.Input("timeout", default=120, min=1, max=3600, tooltip="Seconds without an answer."),
                io.Combo.Input(
                    "trust",
                    options=TRUST,
                    default=TRUST[0],
                    optional=True,
                    tooltip="base: what detector and SAM 2 find decides the place; tuned: the plan's mask "
                    "does, for a model that was trained on EVLM's masks.",
                ),
                io.Combo.Input(
                    "boxes",
                    options=BOXES,
                    default=BOXES[0],
                    optional=True,
                    tooltip="The form in which the model was trained to write a box. auto: by the model's "
                    "name; own: plain numbers from 0 to 1000.",
                ),
            ],
            outputs=[
                sockets.Model.Output(
                    "evlm_model", display_name="model", tooltip="The reasoner, for a node that asks it."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, endpoint: Any) -> bool | str:
        if endpoint is None:  # linked: its value comes with the run
            return True
        from ..evlm.errors import EndpointError
        from ..evlm.reason.remote import RemoteReasoner

        try:
            RemoteReasoner(str(endpoint), "any")
        except EndpointError as error:
            return str(error)
        return True

    @classmethod
    @checked
    def execute(
        cls, endpoint: str, model: str, timeout: int, trust: str = TRUST[0], boxes: str = BOXES[0]
    ) -> io.NodeOutput:
        from ..evlm.errors import RequestError
        from ..evlm.reason.remote import HOSTS_VARIABLE, RemoteReasoner

        if not model.strip():
            raise RequestError(f"model {model!r:.80}: expected the name that the endpoint gives its model")
        hosts = os.environ.get(HOSTS_VARIABLE, "").split(",")
        places = {
            "trust": sockets.choice("trust", trust, TRUST),
            "boxes": sockets.choice("boxes", boxes, BOXES),
        }
        return io.NodeOutput(
            RemoteReasoner(endpoint, model, timeout=float(timeout), key_hosts=hosts, **places)
        )

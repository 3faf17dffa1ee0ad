"""`python -m evlm serve`: a reasoner of this machine for whoever speaks OpenAI's form."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import EVLMError
from . import arguments as kinds

PORT = 8378
KEY = "EVLM_SERVE_KEY"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = "'bundled', a folder, a name of `models` or a hub id that is here (default: %(default)s)"
    add("--model", default="bundled", metavar="NAME", type=kinds.model_name, help=text)
    add("--name", metavar="NAME", help="what clients call it; as --model says by default")
    text = f"address to listen at; another than this machine's own needs {KEY} (default: %(default)s)"
    add("--host", default="127.0.0.1", help=text)
    text = "0 takes a free one (default: %(default)s)"
    add("--port", type=kinds.whole(0, 65535), default=PORT, metavar="N", help=text)
    add("--adapter", metavar="PATH", type=kinds.path, help="LoRA: PEFT folder or .safetensors of ours")
    add("--quantize", choices=["4bit"], help="in 4 bits; needs bitsandbytes")
    add("--device", help="cuda, cuda:1, mps or cpu; the best one there is by default")
    text = "of the weights; auto: what suits model and device"
    add("--dtype", default="auto", choices=["auto", "bf16", "fp16", "fp32"], help=text)
    text = "largest picture that it sees, in pixels; the model's own by default"
    add("--max-pixels", type=kinds.whole(784, 10**8), metavar="N", help=text)
    text = "largest request in megabytes, pictures and all (default: %(default)s)"
    add("--max-body", type=kinds.whole(1, 2048), default=64, metavar="MB", help=text)


def run(options: argparse.Namespace) -> int:
    """Load the model and serve until Ctrl-C."""
    from ..models.zoo import resolve
    from .terminal import quiet_libraries

    quiet_libraries()
    host, key = options.host.strip(), os.environ.get(KEY, "").strip()
    if not host or not host.isprintable() or len(host) > 253:
        raise EVLMError(f"--host {options.host!r:.80}: expected an address of this machine")
    if options.adapter and not Path(options.adapter).expanduser().exists():
        raise EVLMError(f"--adapter {options.adapter}: no such file or folder")
    path = resolve(options.model, "reasoner", options.folder)
    from ..reason.server import LOCAL, Server

    if host not in LOCAL and not key:
        raise EVLMError(f"--host {host}: others could use it; set {KEY} to what their key shall be")
    from ..reason.reasoner import Reasoner

    reasoner = Reasoner.load(
        path, options.adapter, options.dtype, options.device,
        quantize=options.quantize, max_pixels=options.max_pixels,
    )  # fmt: skip
    name = options.name or options.model
    with Server(reasoner, name, host, options.port, key, options.max_body << 20) as server:
        print(f"{name} is served at {server.url}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\n{server.answered:,} answers", flush=True)
    return 0

"""How a server gets what was exported: the commands of others, to be copied. Nothing is run here."""

from __future__ import annotations

import shlex
from pathlib import Path

from evlm.models.zoo import find

from .adapter_source import Learned


def serving(form: str, out: Path, learned: Learned) -> list[str]:
    """Lines for an export that lies at `out`. form: "adapter", "peft" or "merged"."""
    name = out.name.removesuffix(".safetensors")
    if form == "merged":
        return [
            f"  vLLM: {_words('vllm', 'serve', str(out), '--served-model-name', name)}",
            *_llama_cpp(str(out), name),
            _asked(name, learned),
        ]
    merged = f"export ... {_words(str(out.with_name(name + '-merged')))} --to merged"
    if form == "peft":
        known = find(learned.base)
        base, rank = known.repo if known else learned.base, learned.meta.lora.rank
        serve = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(_rank(rank))]
        return [
            f"  vLLM: {_words(*serve, '--lora-modules', f'{name}={out}')}",
            "        (a LoRA on the vision tower too: merge first)",
            f"  llama.cpp: merge first, {merged}",
            _asked(name, learned),
        ]
    return [
        "  this file is for Load EVLM and --adapter alone",
        f"  for vLLM: export ... {_words(str(out.with_name(name)))} --to peft; for llama.cpp: {merged}",
    ]


def _llama_cpp(folder: str, name: str) -> list[str]:
    """Weights and vision tower are two files there."""
    text, tower = f"{name}.gguf", f"mmproj-{name}.gguf"
    convert = ("python", "convert_hf_to_gguf.py", folder)
    serve = ("llama-server", "-m", text, "--mmproj", tower)
    return [
        f"  llama.cpp: {_words(*convert, '--outtype', 'q8_0', '--outfile', text)}",
        f"             {_words(*convert, '--mmproj', '--outfile', tower)}",
        f"             {_words(*serve, '-c', '8192', '--alias', name)}",
    ]


def _asked(name: str, learned: Learned) -> str:
    """With which settings the model is asked as it was trained."""
    prompt, codec = learned.meta.prompt, learned.meta.mask_codec
    if prompt is None or codec is None:
        return f"  then: Remote EVLM or --endpoint, model {name}"
    if (prompt, codec) == ("full", "box-spans-8"):
        return f"  then: Remote EVLM or --endpoint, model {name}, trust tuned"
    how = f"style=get_style({prompt!r}), codec={codec!r}, trust='tuned'"
    return f"  then, for it was trained so, from Python: RemoteReasoner(URL, {name!r}, {how})"


def _rank(rank: int) -> int:
    """The least of vLLM's --max-lora-rank that holds a LoRA of this rank."""
    return next((each for each in (8, 16, 32, 64, 128, 256) if rank <= each), rank)


def _words(*words: str) -> str:
    return shlex.join(words)

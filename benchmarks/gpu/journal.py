"""What has been measured, on disk after each step: gpu.json, and gpu.md to read."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from .steps import Setting, Step


class Journal:
    """A folder's measurements. Those of another machine, other versions or the other size are not gone on
    with: they are moved to gpu.json.old."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "gpu.json"
        self.machine = machine(setting)
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            kept = json.loads(self.path.read_text("utf-8"))
            if kept["machine"] == self.machine:
                self.steps = kept["steps"]
            else:
                self.path.replace(self.path.with_suffix(".json.old"))

    def done(self, step: Step) -> bool:
        return "values" in self.steps.get(step.name, {})

    def put(self, step: Step, seconds: float, values: dict[str, float] | None, why: str = "") -> None:
        """values, or why there are none."""
        entry: dict[str, Any] = {"date": date.today().isoformat(), "seconds": round(seconds, 1)}
        if values is None:
            entry["not measured"] = why
        else:
            entry["values"] = values
            entry["bars"] = {str(bar): bar.met(values) for bar in step.bars}
        self.steps[step.name] = entry
        whole = {"machine": self.machine, "steps": self.steps}
        _write(self.path, json.dumps(whole, indent=1) + "\n")
        _write(self.path.with_suffix(".md"), self.table())

    def table(self) -> str:
        """Markdown."""
        lines = [f"# {self.machine['device']}", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items() if name != "device"]
        lines += ["", "| what | measured | bar |", "|---|---|---|"]
        for name, entry in self.steps.items():
            found = entry.get("values")
            said = f"not measured: {entry['not measured']}" if found is None else "; ".join(
                f"{key} {value:.4g}" for key, value in found.items()
            )  # fmt: skip
            bars = "" if self.machine["size"] == "toy" else "; ".join(
                f"{bar} {'kept' if met else '**missed**'}" for bar, met in entry.get("bars", {}).items()
            )  # fmt: skip
            lines.append(f"| {name} | {said} | {bars} |")
        return "\n".join([*lines, ""])

    def missed(self) -> list[str]:
        """Bars that are not kept; at toy size nobody asks."""
        if self.machine["size"] == "toy":
            return []
        return [
            f"{name}: {bar}"
            for name, entry in self.steps.items()
            for bar, met in entry.get("bars", {}).items()
            if not met
        ]


def machine(setting: Setting) -> dict[str, str]:
    """What figures depend on."""
    import transformers

    card = setting.device.type
    if card == "cuda":
        about = torch.cuda.get_device_properties(setting.device)
        card = f"{about.name}, {about.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    return {
        "device": card,
        "size": "toy" if setting.toy else "full",
        "rounds": str(setting.rounds),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a call may be ended at any moment."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)

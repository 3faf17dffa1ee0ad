"""diffusers' schedulers by the names that users know."""

from __future__ import annotations

from typing import Any

from ..errors import RequestError

# name -> class in diffusers, and what it needs on top of the model's own noise schedule
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


def build_scheduler(name: str, config: dict[str, Any]) -> Any:
    """A new scheduler for one run (they keep state).

    Args:
        name: one of SCHEDULERS, or "model" for the class that the config names.
        config: the model's scheduler_config.json: betas, prediction type, spacing.

    Raises:
        RequestError: an unknown name.
    """
    import diffusers

    extra: dict[str, Any] = {}
    if name == "model":
        class_name = config.get("_class_name", "")
        if class_name not in {known for known, _ in SCHEDULERS.values()}:
            raise RequestError(
                f"the model's own scheduler {class_name!r} is not known; choose {', '.join(SCHEDULERS)}"
            )
    elif name in SCHEDULERS:
        class_name, extra = SCHEDULERS[name]
    else:
        raise RequestError(f"scheduler {name!r}: expected model, {', '.join(SCHEDULERS)}")
    settings = {**config, **extra}
    if class_name in ("DDIMScheduler", "DDPMScheduler"):
        # Their default clips to -1..1, which is meant for pixels; latents are wider.
        settings.setdefault("clip_sample", False)
    scheduler_class = getattr(diffusers, class_name)
    return scheduler_class.from_config(settings)

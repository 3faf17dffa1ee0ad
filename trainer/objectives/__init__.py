"""The losses' mathematics, one function a term: SFT, KTO, RKTO, DPO, credit for samples, the reflection's
reward."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    sft="sft_loss",
    kto="KTOConfig kto_loss",
    rkto="RKTOConfig rkto_terms",
    dpo="DPOConfig dpo_loss",
    group="GroupConfig group_terms",
    reflection="reflection_reward",
)

"""One optimiser step of each method: SFT, KTO, RKTO, DPO and credit for samples."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    sft="sft_step",
    kto="kto_step",
    rkto="rkto_step",
    dpo="dpo_step",
    group="group_step",
)

"""One optimiser step's losses and gradients, by kind of phase: sft, kto, rkto."""

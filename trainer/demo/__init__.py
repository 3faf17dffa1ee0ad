"""The dataset pipeline from end to end on this machine: the drawn world, taught, rated, trained on."""

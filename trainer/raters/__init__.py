"""People rate edits on a page of their own; what they said becomes labels and figures of agreement."""

"""What a reasoner says: the trace's form, its repair, masks as text, and the plan that comes of it."""

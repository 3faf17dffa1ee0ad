"""A request becomes a trace, by a model on this machine or behind an endpoint."""

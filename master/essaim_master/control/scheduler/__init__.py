"""Which node runs which task: filter, then score, and say why not. Pure."""

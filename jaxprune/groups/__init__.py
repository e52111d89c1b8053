"""A channel graph comes in; the groups that are meant, and their channels' weights, go out."""

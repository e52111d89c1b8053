"""A network comes in; a smaller one goes out, with all that belongs to it."""

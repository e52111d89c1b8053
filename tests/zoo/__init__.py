"""Small networks of every family that people prune, each with what must be found in it."""

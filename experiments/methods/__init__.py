"""What is pruned or slimmed how: a configuration comes in, a run of phases goes out."""

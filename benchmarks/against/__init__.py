"""The two sides of `benchmarks.against_torch_pruning`, each a process of its own."""

"""Complete models of other packages, unmodified: what `benchmarks.foreign_models` prunes."""

"""All methods side by side: one dense network, budgets, a recovery, and a registry of methods."""

"""The strict world that every test runs in: several CPU devices, no silent broadcast of ranks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # a test must not depend on an earlier run

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("jaxprune", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("jaxprune")

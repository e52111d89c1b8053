"""Arrays from devices to the host, also those that span processes.

The rule for arrays with values: what is large is reduced where it is, in a compiled program, and
the small result is fetched.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils


def fetch(tree: Any) -> Any:
    """Returns the tree with its arrays on the host, whole on every process.

    As `jax.device_get`, also for arrays of which a process holds a part; then every process makes
    the same call.
    """
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
    spans = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    if not spans or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    if not isinstance(leaf.sharding, jax.NamedSharding):
        return multihost_utils.process_allgather(leaf, tiled=True)
    everywhere = jax.NamedSharding(leaf.sharding.mesh, jax.P())
    return np.asarray(jax.device_put(leaf, everywhere).addressable_data(0))  # one after the other


def replicated(x: jax.Array) -> jax.Array:
    """Returns a traced array that explicit mesh axes do not divide, so that others may be added."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x
    return jax.sharding.reshard(x, jax.NamedSharding(sharding.mesh, jax.P()))

"""A pruned network comes in; one directory, on Orbax, goes out, and the network from it again.

```
path/
  jaxprune.json           spec, metadata, structure of the trees, and SHA-256 of every other file
  jaxprune-data-<token>/  the arrays: an Orbax checkpoint with `variables` and `opt_state`
```

A directory without `jaxprune.json` is not a checkpoint, and what it does not name is never read.
"""

from jaxprune.checkpoint.restoring import Restored, restore
from jaxprune.checkpoint.saving import save

__all__ = [
    "Restored",
    "restore",
    "save",
]

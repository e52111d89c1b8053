"""A pruned network comes in; one directory, on Orbax, goes out, and the network from it again.

```
path/
  jaxprune.json           spec, metadata, structure of the trees, and SHA-256 of every other file
  jaxprune-data-<token>/  the arrays: an Orbax checkpoint with `variables` and `opt_state`
```

A directory without `jaxprune.json` is not a checkpoint, and what it does not name is never read.

Variables in files, of this kind or of safetensors, are opened and sliced into new ones, of either,
without having them in memory:

```
path/
  model.safetensors       the tensors, or model-00001-of-00002.safetensors, ... and their index
  jaxprune-slice.json     spec, metadata, structure of the tree, and SHA-256 of every tensor
```
"""

from jaxprune.checkpoint.opening import open_variables
from jaxprune.checkpoint.restoring import Restored, restore
from jaxprune.checkpoint.saving import save
from jaxprune.checkpoint.stored_slicing import slice_stored

__all__ = [
    "Restored",
    "open_variables",
    "restore",
    "save",
    "slice_stored",
]

"""A checkpoint with one leaf of every kind, and what tests do to checkpoints."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.checkpoint import save

SPEC = {
    "format": 1,
    "groups": {"Conv_0/kernel": {"size": 8, "kept": [0, 3, 7]}},
    "versions": {"jax": "0.12.0", "jaxprune": "0.1.0"},
}
METADATA = {"accuracy": 0.987654321, "épochs": [1, 2], "nested": {"none": None, "yes": True}}
VARIABLES = {
    "params": {
        "Conv_0": {"kernel": np.arange(24.0).reshape(2, 4, 3), "bias": jnp.ones(3, jnp.bfloat16)},
        "a/b.c %": {"half": np.array([np.nan, -0.0, np.inf], np.float16)},
        "f32": jnp.asarray([1e-45, np.nan], jnp.float32),
        "int4": jnp.arange(3, dtype=jnp.int4),
        "float8": jnp.ones(3, jnp.float8_e4m3fn),
        "complex": np.ones((2, 1), np.complex64),
    },
    "a": {"b": np.ones(1)},
    "a/b": np.zeros(1),
    "lists": [np.array([255], np.uint8), (np.int64(2**62), [])],
    "layers": {0: np.ones(1), 10: np.ones(2)},
    "scalars": {
        "int": 3,
        "float": 0.1,
        "bool": True,
        "zero_d": np.float64(0.1),
        "jax": jnp.int8(3),
    },
    "empty": {},
    "none": None,
    "no_elements": {"numpy": np.zeros((0, 3), np.int16), "jax": jnp.zeros((2, 0))},
}
PARAMS = {"Conv_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


def write(path: Path) -> Path:
    """Saves all of it, with the state of an optimizer."""
    save(path, VARIABLES, SPEC, opt_state=optax.adam(1e-3).init(PARAMS), metadata=METADATA)
    return path


def data(path: Path) -> Path:
    """The directory of the arrays, the only one in a checkpoint at rest."""
    (found,) = path.glob("jaxprune-data-*")
    assert len(list(path.iterdir())) == 2
    return found


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if isinstance(a, bool | int | float) and not isinstance(a, np.generic):
            assert (type(a), a) == (type(b), b)
        else:
            assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files(path: Path) -> dict[str, bytes]:
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def rewrite_manifest(path: Path, change) -> None:
    """Applies `change` to the content of the manifest and signs it again."""
    manifest = json.loads((path / "jaxprune.json").read_text())
    change(manifest["content"])
    signed = json.dumps(manifest["content"], sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(signed).hexdigest()
    (path / "jaxprune.json").write_text(json.dumps(manifest))

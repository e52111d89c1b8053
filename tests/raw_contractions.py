"""Blocks of raw programs: products with odd subscripts, and parameters that are used twice."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import sparse

from raw_make import one_zero


def dense(h, make):
    h = make.dense(h, make.width())
    return make.activation(h + make.vector(h))


def dense_without_bias(h, make):
    return make.activation(make.dense(h, make.width()))


def einsum_permuted(h, make):
    out = make.choice("dtn", "tdn", "dnt", "tnd", "ntd", "ndt")
    w = make.variable(make.width(), h.shape[-1])
    h = jnp.einsum(f"dc,ntc->{out}", w, h)
    return make.activation(jnp.transpose(h, [out.index(axis) for axis in "ntd"]))


def einsum_three_operands(h, make):
    a, b = make.kernel(h, make.width()), make.variable(4, make.width())
    a = a @ make.variable(a.shape[-1], 4)
    return jnp.einsum("ntc,cd,de->nte", h, a, b)


def einsum_bilinear(h, make):
    g = make.dense(h, make.width())
    w = make.variable(g.shape[-1], h.shape[-1], make.width())
    return jnp.einsum("cad,nta,ntc->ntd", w, h, g)


def einsum_diagonal(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return jnp.einsum("ntc,cc->ntc", h, w)


def einsum_trace(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return h * jnp.einsum("cc->", w)


def einsum_repeated(h, make):
    """The entries h[n, t, c, c] of an outer product."""
    g = make.dense(h, h.shape[-1])
    outer = jnp.einsum("nta,ntb->ntab", h, g)
    return jnp.einsum("ntcc->ntc", outer)


def einsum_scalar(h, make):
    return jnp.einsum(",ntc,->ntc", make.variable(), h, 0.5)


def einsum_sum(h, make):
    """An index of one operand alone is summed."""
    w = make.variable(h.shape[-1], make.width(), 3)
    return jnp.einsum("ntc,cde->ntd", h, w)


def einsum_outer(h, make):
    h = make.dense(h, 4)
    g = make.dense(h, 3)
    outer = jnp.einsum("ntc,ntd->ntcd", h, g)
    if make.choice(True, False):
        return outer.reshape(*h.shape[:2], -1)
    return jnp.einsum("ntcd,cde->nte", outer, make.variable(4, 3, make.width()))


def einsum_heads(h, make):
    h = make.even(h)
    heads = h.reshape(*h.shape[:2], 2, -1)
    w = make.variable(2, heads.shape[-1], 3)
    return jnp.einsum("nthd,hde->nteh", heads, w).reshape(*h.shape[:2], -1)


def einsum_two_contracted(h, make):
    h = make.even(h)
    heads = h.reshape(*h.shape[:2], -1, 2)
    return jnp.einsum("nthd,hdo->nto", heads, make.variable(heads.shape[-2], 2, make.width()))


def einsum_ellipsis(h, make):
    return jnp.einsum("...c,dc->...d", h, make.variable(make.width(), h.shape[-1]))


def bilinear(h, make):
    g = make.dense(h, make.width())
    w = make.variable(h.shape[-1], g.shape[-1], make.width(), scale=0.3)
    return jnp.einsum("ntc,ntd,cde->nte", h, g, w)


def gram(h, make):
    g = make.dense(h, make.width())
    places = jnp.einsum("ntc,nsc->nts", g, g)
    return jnp.einsum("nts,nsc->ntc", places / 8, h)


def attention(h, make):
    q, k = (make.dense(h, 6).reshape(*h.shape[:2], 2, 3) for _ in range(2))
    v = make.dense(h, 8).reshape(*h.shape[:2], 2, 4)
    scores = jnp.einsum("nthd,nshd->nhts", q, k) / make.choice(1.0, 1.7)
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), v).reshape(*h.shape[:2], -1)


def grouped_query(h, make):
    q = make.dense(h, 12).reshape(*h.shape[:2], 2, 2, 3)
    k, v = (make.dense(h, 6).reshape(*h.shape[:2], 2, 3) for _ in range(2))
    scores = jax.nn.softmax(jnp.einsum("ntkrd,nskd->nkrts", q, k))
    return jnp.einsum("nkrts,nskd->ntrkd", scores, v).reshape(*h.shape[:2], -1)


def low_rank(h, make):
    a = make.kernel(h, 4)
    return h @ (a @ make.variable(4, make.width()))


def kronecker(h, make):
    h = make.even(h)
    return h @ jnp.kron(make.variable(2, 2), make.variable(h.shape[-1] // 2, 3))


def mixed_places(h, make):
    w = make.variable(h.shape[1], h.shape[1])
    return h + make.activation(jnp.tensordot(h, w, ((1,), (0,))).swapaxes(1, 2))


def raw_dot_general(h, make):
    w = make.variable(make.width(), h.shape[-1])
    if make.choice(True, False):
        return lax.dot_general(h, w, (((2,), (1,)), ((), ())))
    out = lax.dot_general(w, h, (((1,), (2,)), ((), ())), precision="highest")
    return jnp.transpose(out, (1, 2, 0))


def batched_dot_general(h, make):
    """The channels are the batch: each has a kernel over places."""
    w = make.variable(h.shape[-1], h.shape[1], h.shape[1])
    out = lax.dot_general(h, w, (((1,), (1,)), ((2,), (0,))))
    return jnp.moveaxis(out, 0, -1)


def tied_transpose(h, make):
    w = make.kernel(h, make.width())
    return make.activation(h @ w) @ w.T


def tied_swapaxes(h, make):
    w = make.variable(2, h.shape[-1], 3)
    up = jnp.einsum("ntc,kcd->ntkd", h, w)
    return jnp.einsum("ntkd,kdc->ntc", jnp.tanh(up), jnp.swapaxes(w, 1, 2))


def used_twice(h, make):
    w = make.variable(h.shape[-1], h.shape[-1])
    return make.activation(h @ w) @ w


def matrix_power(h, make):
    return h @ jnp.linalg.matrix_power(make.variable(h.shape[-1], h.shape[-1]), 2)


def shared_bias(h, make):
    b = make.vector(h)
    return jnp.tanh(h + b) - b


def inner_product(h, make):
    return jnp.inner(h, make.variable(make.width(), h.shape[-1]))


def joined_kernels(h, make):
    """One product with two kernels side by side, and apart again."""
    a, b = make.kernel(h, 4), make.kernel(h, 6)
    both = h @ jnp.concatenate([a, b], axis=1)
    left, right = both[..., : a.shape[1]], both[..., a.shape[1] :]
    return jnp.concatenate([jnp.tanh(right), left], axis=-1)


def triangular(h, make):
    cut = {"lower": jnp.tril, "upper": jnp.triu}[make.choice("lower", "upper")]
    return h @ cut(make.variable(h.shape[-1], h.shape[-1]))


def identity_added(h, make):
    """A kernel beside the identity, or a diagonal."""
    w = make.variable(h.shape[-1], h.shape[-1])
    if make.choice(True, False):
        return h @ (w + jnp.eye(h.shape[-1], dtype=h.dtype))
    return h @ (w + jnp.diag(make.vector(h)))


def ragged_experts(h, make):
    """Each of three kernels for some of the rows."""
    rows = h.reshape(-1, h.shape[-1])
    sizes = jnp.array([5, 0, len(rows) - 5], jnp.int32)
    kernels = make.variable(3, h.shape[-1], make.width())
    return lax.ragged_dot(rows, kernels, sizes).reshape(*h.shape[:2], kernels.shape[-1])


def messages(h, make):
    """Places send to others, as the nodes of a graph."""
    edges = np.array([[0, 1], [1, 0], [3, 2], [7, 5], [5, 5]])
    weights = make.variable(5)
    matrix = sparse.BCOO((weights, edges), shape=(8, 8))
    dims = (((1,), (1,)), ((), ()))
    return jnp.moveaxis(sparse.bcoo_dot_general(matrix, h, dimension_numbers=dims), 0, 1)


def solved_for(h, make):
    """A primitive without a rule."""
    factor = make.variable()
    return lax.custom_linear_solve(
        lambda z: (2 + factor**2) * z, h, lambda _, b: b / (2 + factor**2), symmetric=True
    )


def approximate_top(h, make):
    best, _ = lax.approx_max_k(jnp.swapaxes(one_zero(make.dense(h, 6)), 1, 2), 3)
    return h + best.mean((1, 2))[:, None, None]


def unused_variable(h, make):
    make.vector(h)
    return h

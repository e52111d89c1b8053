"""One call of `least_squares`: kernel by kernel, what is measured, fitted and put back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, kind_of
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_finite
from jaxprune.cutting.transforms import mask
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep, check_keep
from jaxprune.recover.biases import added, takers
from jaxprune.recover.fits import Block, Form, Moments, bias, error, fit
from jaxprune.recover.leaves import concrete, replaced
from jaxprune.recover.measuring import Draw, Measuring
from jaxprune.recover.readers import Reader, find_readers, kernels
from jaxprune.recover.shortcuts import find_sums
from jaxprune.stats.batch_calls import call_of

Array = np.ndarray


class Order(Enum):
    """What the readers are fitted on, whose targets are always of the whole network."""

    IN_TURN = "what the pruned network gives them, all before them fitted"  # a pass for each
    AT_ONCE = "what the whole network gives them"  # one pass


class Fit(NamedTuple):
    """What became of one contraction that reads pruned groups.

    groups: the pruned groups that it reads. reader: its module path, or file and line, and layer.
    kernel: the path of its weights; None where it stays as it is, for the reason `why`.
    before, after: the squared error of its outputs over their squares, on the data: with the
      weights of the kept channels as they were, and as they are now.
    method: the factorization, and where the bias went.
    """

    groups: tuple[str, ...]
    reader: str
    kernel: str | None = None
    before: float = float("nan")
    after: float = float("nan")
    method: str = ""
    why: str | None = None

    def __str__(self) -> str:
        where = f"{', '.join(self.groups)} at {self.reader}: "
        if self.why is not None:
            return f"{where}as it was: {self.why}"
        return f"{where}error {self.before:.3g} -> {self.after:.3g}, {self.method}"


class Recovered(NamedTuple):
    """The full variables to be sliced, and what became of every reader."""

    variables: Any
    fits: tuple[Fit, ...]


class Fitting:
    """One call of `least_squares`."""

    def __init__(
        self,
        graph: ChannelGraph,
        variables: Any,
        keep: Keep,
        batches: Iterable[Any],
        form: Form,
        ridge: float,
        order: Order,
        inputs: Callable[[Any], Any] | None,
        fn: Callable[..., Any] | None,
        draw: Draw,
    ):
        masks = check_keep(graph, keep)
        self.graph = graph
        self.variables = jax.tree.map(_settled, variables)  # so that one program serves all turns
        self.keep = {name: np.asarray(kept) for name, kept in masks.items() if not np.all(kept)}
        self.leaves = concrete(graph, self.variables)
        _check_choice(form, "form", Form)
        _check_choice(order, "order", Order)
        self.form, self.order, self.batches = form, order, batches
        self.ridge = check_finite(ridge, "ridge", "ridge=0.01.")
        check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
        readers, self.refused = find_readers(graph, self.keep)
        why = takers(graph, self.leaves, self.keep, readers)
        self.readers = [replace(r, biased=not no) for r, no in zip(readers, why, strict=True)]
        call = call_of(graph, inputs)
        run = graph.fn if fn is None else fn
        where = "recover.least_squares"
        self.measuring = Measuring(graph, self.readers, call, run, where, draw, form)
        self.fits: dict[int, Fit] = {}

    def recovered(self) -> Recovered:
        """Returns the fitted variables."""
        if self.order is Order.AT_ONCE and self.readers:
            every = list(range(len(self.readers)))
            moments = self.measuring.collect(self.batches, self.variables, None, every)
            constants = [
                made
                for numbers in kernels(self.readers)
                for made in self._fitted(numbers, [moments[i] for i in numbers])
            ]
            order = [i for numbers in kernels(self.readers) for i in numbers]
            self._add(order, constants)
        elif self.readers:
            self._in_turn()
        fits = [self.fits[i] for i in range(len(self.readers))]
        fits += [Fit(r.groups, r.place, why=r.why) for r in self.refused]
        return Recovered(self._tree(), tuple(fits))

    def _in_turn(self) -> None:
        turns = kernels(self.readers)
        self.measuring.sums = find_sums(self.graph, self.leaves, self.keep, self.readers)
        if len(turns) > 1 and iter(self.batches) is self.batches:
            raise JaxpruneError(
                f"recover.least_squares: {len(turns)} kernels are fitted in turn, each on all "
                "batches, but batches can be iterated once.\n"
                "Fix: list(batches), or order=jp.recover.Order.AT_ONCE."
            )
        for numbers in turns:
            now = mask(self.graph, self._tree(), self.keep)
            moments = self.measuring.collect(self.batches, now, self.variables, numbers)
            self._add(numbers, self._fitted(numbers, moments))

    def _fitted(self, numbers: Sequence[int], moments: Sequence[Moments]) -> list[Array]:
        """Fits one kernel, and returns what each of its readers should add to its outputs."""
        readers = [self.readers[i] for i in numbers]
        leaf = self.leaves[readers[0].path]
        if self.form is Form.BIAS:
            leaf = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)  # no weight is looked at
        leaf = np.asarray(fetch(leaf))
        blocks = [reader.blocks(leaf) for reader in readers]
        if self.form is Form.BIAS:
            blocks = [[block.outputs for block in each] for each in blocks]
        new, methods = [], []
        constants = [np.zeros(reader.written.shape) for reader in readers]
        for b in range(len(blocks[0])):
            data = [Moments(*(part[b] for part in moment)) for moment in moments]
            kernel, method, shifts = self._block(
                [each[b] for each in blocks], readers, data, leaf.dtype
            )
            new.append(kernel)
            methods += [method] if method not in methods else []
            for constant, shift in zip(constants, shifts, strict=True):
                constant[b] = shift
        if self.form is not Form.BIAS:
            self.leaves[readers[0].path] = readers[0].with_kernel(leaf, new)
        for n, i in enumerate(numbers):
            words = ", ".join([*methods, "bias" if readers[n].biased else "no bias"])
            self.fits[i] = fit_of(readers[n], moments[n], blocks[n], new, words, constants[n])
        return constants

    def _block(
        self,
        blocks: Sequence[Block],
        readers: Sequence[Reader],
        data: Sequence[Moments],
        dtype: Any,
    ) -> tuple[Array, str, list[Array]]:
        """The best of the fitted kernel, of the old one with a new bias, and of all as it was."""
        biased = [reader.biased for reader in readers]
        rounding = self.measuring.rounding
        fitted = fit(blocks[0], list(data), biased, self.form, self.ridge, rounding)
        start = np.where(blocks[0].kept[:, None], blocks[0].kernel, 0)
        none = [np.zeros(block.kernel.shape[1]) for block in blocks]

        def biases(kernel: Array) -> list[Array]:
            pairs = zip(none, biased, data, strict=True)
            return [bias(moment, kernel) if has_bias else zero for zero, has_bias, moment in pairs]

        rounded = fitted.kernel.astype(dtype).astype(np.float64)
        tried = [(rounded, fitted.method, biases(rounded))]
        tried += [(start, "the old kernel", biases(start)), (start, "as it was", none)]
        errors = [
            sum(
                error(moment, kernel, shift, block.written)
                for moment, shift, block in zip(data, shifts, blocks, strict=True)
            )
            for kernel, _, shifts in tried
        ]
        return tried[int(np.argmin(errors))]

    def _add(self, numbers: Sequence[int], constants: Sequence[Array]) -> None:
        pairs = [
            (self.readers[i], constant)
            for i, constant in zip(numbers, constants, strict=True)
            if self.readers[i].biased
        ]
        if pairs:
            readers, given = zip(*pairs, strict=True)
            self.leaves |= added(self.graph, self.leaves, self.keep, readers, given)

    def _tree(self) -> Any:
        old = paths.flatten(self.variables)[0]
        new = {path: leaf for path, leaf in self.leaves.items() if leaf is not old[path]}
        return replaced(self.variables, new)


def fit_of(
    reader: Reader,
    moments: Moments,
    blocks: Sequence[Block],
    kernels: Sequence[Array],
    method: str,
    constants: Array | None = None,
) -> Fit:
    """Returns the fit of a reader with new kernels f64[K, O] and constants f64[blocks, O]."""
    totals = np.zeros(3)
    for b, (block, kernel) in enumerate(zip(blocks, kernels, strict=True)):
        moment = Moments(*(part[b] for part in moments))
        start, zero = np.where(block.kept[:, None], block.kernel, 0), np.zeros(kernel.shape[1])
        shift = zero if constants is None else constants[b]
        totals += (
            error(moment, start, zero, block.written),
            error(moment, kernel, shift, block.written),
            moment.size[block.written].sum(),
        )
    before, after = (float(total / (totals[2] or 1.0)) for total in totals[:2])
    return Fit(reader.groups, reader.place, reader.path, before, after, method)


def _settled(leaf: Any) -> Any:
    """A leaf bound to the devices that it is on, as those that take its place are."""
    return jax.device_put(leaf, leaf.sharding) if isinstance(leaf, jax.Array) else leaf


def _check_choice(value: Any, name: str, kind: type[Enum]) -> None:
    if not isinstance(value, kind):
        options = [str(item) for item in kind]
        raise JaxpruneError(
            f"{name} must be one of {options}, got {kind_of(value)}.\n"
            f"Fix: {name}=jp.recover.{options[0]}."
        )

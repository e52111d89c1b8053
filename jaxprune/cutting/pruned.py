"""What one call of `prune` gives back."""

from dataclasses import dataclass
from typing import Any

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.comparison import comparison
from jaxprune.keep.check import Keep


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pruned:
    """A pruned network; `print` shows its widths and costs before and after.

    Attributes:
      model: the network at the kept widths: a Linen module, an NNX model, or a function of
        `(variables, *inputs)`.
      variables: its variables; for NNX those that the model holds.
      graph: the channel graph of the network before.
      keep: {group: bool[n]}: what stays. `jp.spec(graph, keep)`, `jp.slice_opt_state` and the rest
        of the library take the two.
      follows: the constants of the model that follow a pruned size, before and after.
      draws: what the model draws at random over pruned channels, with numbers of its own.
      not_resized: None where the model runs the code of the network. Else why that code is another
        network at the kept widths, so that the model is `jp.narrow`'s; only `jp.prune` does this.
    """

    model: Any
    variables: Any
    graph: ChannelGraph
    keep: Keep
    follows: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()
    not_resized: str | None = None

    def __repr__(self) -> str:
        text = str(comparison(self.graph, self.keep, self.follows, self.draws))
        if self.not_resized is None:
            return text
        return f"{text}\nThe model is that of jp.narrow: {self.not_resized.splitlines()[0]}"

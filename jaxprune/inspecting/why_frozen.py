"""Why an axis cannot be pruned, in plain words, and the way out if there is one."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxprune.program.spaces import Reason


class Explained(NamedTuple):
    """A reason in words, with its place, and what to do about it."""

    words: str
    way_out: str = ""


_AS_VARIABLE = (
    "hand that array to the function as a variable (in the first argument): then it is cut "
    "with the channels; or trace(..., free_constants=True), and jp.narrow cuts it"
)
_NATURAL = {  # in the nature of a network: not worth a place
    r"output": "it is an axis of the output",
    r"axis of output (.*)": "it is an axis of output {0}",
    r"axis of an input": "it meets an axis of an input",
    r"window of a convolution": "it is the window of a convolution",
    r"not used by the function": "the function does not use it",
    r"not read by the function": "the function does not read this part of it",
}
_WORDS = {
    r"spatial axis of a (convolution|window)": ("a {0} runs along it, as along height or time", ""),
    r"batch groups of a convolution": ("it is divided into batch groups of a convolution", ""),
    r"layers of a stack": (
        "it counts stacked layers",
        "the channels inside of the layers can be pruned",
    ),
    r"stacked": ("it counts stacked arrays, which are not channels", ""),
    r"unstack": ("every index of it is taken apart", ""),
    r"counted by iota": ("positions are counted along it (jnp.arange)", _AS_VARIABLE),
    r"constant of the function": ("it meets a constant array of the function", _AS_VARIABLE),
    r"unknown primitive (\S+)": (
        "no rule says what {0} does to it",
        "trace(..., rules=jp.RULES | {{'{0}': rule}})",
    ),
    r"reshape of (.+) to (.+)": (
        "a reshape of {0} to {1} cuts across channels",
        "choose sizes that divide each other",
    ),
    r"cannot align (.+) with (.+)": (
        "an operation meets {0} and {1}, of which the channels do not line up",
        "let both be made of channels in the same order, or keep them apart",
    ),
    r"an axis of size (.+) meets a rearrangement of itself": (
        "its {0} channels are added to the same channels in another order",
        "do so before a layer, which may rearrange them",
    ),
    r"indexed by (gather|scatter)": ("its entries are chosen by index ({0})", ""),
    r"dynamic (slice|update slice)": ("its entries are chosen by a computed index", ""),
    r"pointed into by (argmax|argmin)": (
        "{0} returns positions in it, which pruning would renumber",
        "",
    ),
    r"sorted|ordered by top_k": ("sorting forgets which channel is which", ""),
    r"reversed": ("its order is reversed", ""),
    r"slice with stride (\d+)|every (\d+)th index is taken apart": (
        "every {0}th index of it is taken apart",
        "",
    ),
    r"read in parts by channels that cannot be pruned": (
        "readers that cannot be pruned take parts of it",
        "",
    ),
    r"divided over a mesh by shard_map": (
        "shard_map divides it over devices",
        "trace the function without shard_map",
    ),
}
_ATOM = re.compile(r"[^\s(]+:(\d+)")  # as a space prints an atom
INEXACT: Mapping[str, str] = {
    "has no finite derivative": "add a small number under the root, or prune and fine-tune: the "
    "masked outputs are right, their gradients are not numbers",
    "a zero is not neutral": "prune and fine-tune, or keep the group whole (protect=)",
    "that the mask does not make zero": "prune and fine-tune, or jp.recover.absorb_constants first",
}
"""What an inexact group's text contains -> what to do about it."""


def explained(reason: Reason, *, brief: bool = False) -> Explained:
    """Returns a reason in words; a `brief` one without the place where that is plain."""
    for pattern, words in _NATURAL.items():
        if found := re.fullmatch(pattern, reason.text):
            return Explained(words.format(*found.groups()) + ("" if brief else _place(reason)))
    for pattern, (words, way_out) in _WORDS.items():
        if found := re.fullmatch(pattern, reason.text):
            groups = [_ATOM.sub(r"\1", group) for group in found.groups() if group is not None]
            return Explained(words.format(*groups) + _place(reason), way_out.format(*groups))
    return Explained(reason.text + _place(reason))


def _place(reason: Reason) -> str:
    """The operation: its module path, or the file and line."""
    return f", by {reason.at.name} at {reason.place}" if reason.place else ""

"""Every reason why an axis cannot be pruned, and why a group is inexact, in words."""

from typing import Any, NamedTuple


class Why(NamedTuple):
    """A kind of reason; `{0}`, `{1}` stand for what a reason of this kind is of.

    text: in short, as `graph.frozen` has it. words: as `jp.explain` says it, the text if empty.
    way_out: what to do about it, if there is anything. natural: in the nature of a network, so that
    the operation is not worth a word. option: what frees it at a price, in short for a table.
    """

    text: str
    words: str = ""
    way_out: str = ""
    natural: bool = False
    option: str = ""


class Reason(NamedTuple):
    """Why an atom is frozen: a kind, what it is of, and the operation at which it happened."""

    why: Why
    of: tuple[Any, ...] = ()
    at: Any = None

    @property
    def text(self) -> str:
        """The reason in short."""
        return self._filled(self.why.text)

    @property
    def words(self) -> str:
        """The reason in a sentence."""
        return self._filled(self.why.words or self.why.text)

    @property
    def way_out(self) -> str:
        """What to do about it, if there is anything."""
        return self._filled(self.why.way_out)

    def _filled(self, text: str) -> str:
        """A text about what the reason is of; a text that is of nothing may have braces."""
        return text.format(*self.of) if self.of else text

    @property
    def place(self) -> str:
        """The module path, or the file and line, of the operation."""
        return getattr(self.at, "place", "")


_AS_VARIABLE = (
    "hand that array to the function as a variable (in the first argument): then it is cut "
    "with the channels; or trace(..., free_constants=True): then jp.narrow cuts it, but a resize "
    "is refused where the code computes other values at the kept width"
)
_FREED = (
    "trace(..., free_constants=True) frees it for jp.narrow, not for a resize that recomputes it"
)
_NO_CHANNEL_LEFT = "sorting forgets which channel is which"

# The function
OUTPUT = Why("output", "it is an axis of the output", natural=True)
ONE_OUTPUT = Why("axis of output {0!r}", "it is an axis of output {0!r}", natural=True)
INPUT = Why("axis of an input", "it meets an axis of an input", natural=True)
NOT_USED = Why("not used by the function", "the function does not use it", natural=True)
NOT_READ = Why(
    "not read by the function", "the function does not read this part of it", natural=True
)
LEFT_OUT = Why(
    "channels that nothing reads",
    "a slice leaves these channels out, and nothing else reads them",
    "make the layer narrower: no output depends on them",
)
CONSTANT = Why(
    "constant of the function",
    "it meets a constant array of the function",
    _AS_VARIABLE,
    option=_FREED,
)
UNKNOWN = Why(
    "unknown primitive {0}",
    "no rule says what {0} does to it",
    "trace(..., rules=jp.RULES | {{'{0}': rule}})",
)

# How spaces meet
RESHAPE = Why(
    "reshape of {0} to {1} x {2}",
    "a reshape of {0} to {1} x {2} cuts across channels",
    "choose sizes that divide each other",
)
EMPTY = Why("reshape of an empty array")
UNALIGNED = Why(
    "cannot align {0} with {1}",
    "an operation meets {0} and {1}, of which the channels do not line up",
    "let both be made of channels in the same order, or keep them apart",
)
REARRANGED = Why(
    "an axis of size {0} meets a rearrangement of itself",
    "its {0} channels are added to the same channels in another order",
    "do so before a layer, which may rearrange them",
)

# What operations do
SPATIAL = Why("spatial axis of a {0}", "a {0} runs along it, as along height or time")
WINDOW = Why("window of a convolution", "it is the window of a convolution", natural=True)
FUNCTION_WINDOW = Why("window with a function")
FUNCTION_REDUCED = Why("reduced by a function")
BATCH_GROUPS = Why(
    "batch groups of a convolution", "it is divided into batch groups of a convolution"
)
LAYERS = Why(
    "layers of a stack",
    "it counts stacked layers",
    "the channels inside of the layers can be pruned",
)
ONE_BY_ONE = Why(
    "taken one by one",
    "the function takes its entries one by one, as a Python loop does",
    "let one operation take them all, such as einsum, vmap or scan",
)
STACKED = Why("stacked", "it counts stacked arrays, which are not channels")
COUNTED = Why(
    "counted by iota",
    "positions are counted along it (jnp.arange)",
    _AS_VARIABLE,
    option=_FREED,
)
INDEXED = Why("indexed by {0}", "its entries are chosen by index ({0})")
INDEX_INPUT = Why(
    "indexed by input {0!r}",
    "input {0!r} points into it (index_inputs), and the function uses that input as a number",
    "compare it with other positions only, or leave it out of index_inputs",
)
DYNAMIC = Why("dynamic {0}", "its entries are chosen by a computed index")
POINTED_INTO = Why(
    "pointed into by {0}", "{0} returns positions in it, which pruning would renumber"
)
SORTED = Why("sorted", _NO_CHANNEL_LEFT)
ORDERED = Why("ordered by {0}", _NO_CHANNEL_LEFT)
TRANSFORMED = Why("transformed by {0}", "{0} makes every entry of all entries along it")
SPARSE = Why("axis of a sparse array", "a sparse array says where its entries are along it")
GROUPED = Why(
    "groups of a ragged product",
    "it counts the groups (experts) of a ragged product, or their rows",
)
REVERSED = Why("reversed", "its order is reversed")
STRIDED = Why("slice with stride {0}", "every {0}th index of it is taken apart")
TAKEN_APART = Why("every {0}th index is taken apart", "every {0}th index of it is taken apart")
PADDED = Why("pad between or inside the entries")
BITCAST = Why("bitcast to another width")
INSIDE_A_KEY = Why("inside a random key")
JOINT_KEYS = Why("keys of a generator that draws for all of them at once")
COLLECTIVE = Why("collective {0}")
AXIS_INDEX = Why("axis index")
READ_IN_PARTS = Why(
    "read in parts by channels that cannot be pruned",
    "readers that cannot be pruned take parts of it",
)
DIVIDED = Why(
    "divided over a mesh by shard_map",
    "shard_map divides it over devices",
    "trace the function without shard_map",
)

# Why a group is inexact
_SUMMED = "prune and fine-tune, or jp.recover.absorb_constants first"
_STEEP = (
    "add a small number under the root, or prune and fine-tune: the masked outputs are right, "
    "their gradients are not numbers"
)
STEEP = Why("has no finite derivative where the mask makes it zero", way_out=_STEEP)
CONTRACTED = Why("contracts activations that the mask does not make zero", way_out=_SUMMED)
SUMMED = Why("sums values that the mask does not make zero", way_out=_SUMMED)
WRITTEN = Why("{0}: writes values that the mask does not make zero", way_out=_SUMMED)
ROWS = Why("multiplies rows of groups that the mask does not empty", way_out=_SUMMED)
NOT_NEUTRAL = Why(
    "{0}: a zero is not neutral in it",
    way_out="prune and fine-tune, or keep the group whole (protect=)",
)
SINGULAR = Why(
    "{0}: its matrix may be singular or degenerate where the mask makes channels zero",
    way_out="prune and fine-tune, or keep the group whole (protect=)",
)
DIVIDED_BY = Why("divides by a value that the mask makes zero")
INFINITE = Why("is infinite where the mask makes it zero")
OWN_DERIVATIVE = Why("its own derivative {0}")
OWN_COTANGENT = Why("its own derivative is not zero where a value does not matter")

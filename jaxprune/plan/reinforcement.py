"""AMC: an agent that says choice by choice what stays, and learns from the loss at the end."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import jax
import numpy as np

from jaxprune.arguments.numbers import check_count, check_positive, check_share
from jaxprune.errors import BudgetError
from jaxprune.groups.kinds import Kind, kinds
from jaxprune.inspecting import cost
from jaxprune.inspecting.branches import branches
from jaxprune.plan.actor_critic import Agent, Batch, act, agent, noisy, trained
from jaxprune.plan.allocation import Allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Losses
from jaxprune.plan.least_loss import LeastLoss
from jaxprune.plan.prices import Point, Prices
from jaxprune.plan.problems import Problem, check_problem
from jaxprune.plan.recovering import Recover, Recovering

STATES = 10
BATCH = 64
REMEMBERED = 100
"""For how many episodes transitions are remembered."""

_act = jax.jit(act)


def amc(
    problem: Problem,
    evaluate: Evaluate,
    *,
    recover: Recover | None = None,
    variables: Any = None,
    episodes: int = 800,
    warmup: int = 100,
    noise: float = 0.5,
    noise_decay: float = 0.95,
    hidden: int = 300,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation of the least loss that an agent found, which learns what to keep.

    In every episode the agent goes through the choices in the order of the network. It sees ten
    numbers of each (`States`) and answers with the share that stays: the narrowest width of the
    ladder that is at least so wide, or the widest with which all limits hold when all choices
    behind it are at their narrowest. So every episode ends within the limits. Its reward is minus
    the loss at the end, the same for all steps. In the first episodes the answers are drawn evenly;
    then from a normal distribution about the actor's, truncated to [0, 1], whose deviation shrinks
    from episode to episode, and after each of these the agent is trained for as many steps as there
    are choices (DDPG, replay of the last 100 episodes, batches of 64, Adam at 1e-4 for the actor
    and 1e-3 for the critic, targets that follow by 0.01, discount 1, rewards less their moving
    average).

    It knows the loss of whole allocations, recovered or not, and generalizes over choices.

    Args:
      problem: what `jp.plan.problem` returned; its floors are the least shares (the code's are a
        fifth: `min_keep_ratio=0.2`, with `multiple_of=8`).
      evaluate: `evaluate(keep)`, with `recover` `evaluate(keep, variables)`, to a finite loss,
        lower is better, on data that are neither trained nor tested on. The paper rewards by
        accuracy: give one minus it.
      recover: from variables in the full shapes and a keep to such variables, called behind every
        choice that is narrowed, with all choices behind it whole: `lambda v, keep:
        jp.recover.least_squares(graph, v, keep, batches).variables` is the paper's reconstruction.
        It must give the same for the same.
      variables: what `recover` begins with in every episode.
      episodes: how many allocations are tried.
      warmup: how many of them are drawn evenly, without learning.
      noise: the deviation of the first answer after that.
      noise_decay: of the deviation, from episode to episode.
      hidden: how wide both layers of the actor and of the critic are.
      seed: of all that is drawn.
      journal: a file of losses, without `recover` as of `jp.plan.replace_one`. Killed and called
        again, the search goes through the episodes anew without evaluating; the result is the same.

    Returns:
      The allocation; its `variables` are those that were recovered for it.

    Raises:
      JaxpruneError: `problem` is not one, or a loss is not finite: the message names the widths.
      BudgetError: a number makes no sense.
      CheckpointError: the journal is of another problem, other weights or other data.

    Costs: at most an evaluation, and a recovery for every narrowed choice, in every episode.

    Source: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV
    2018, section 3, and its code. The replay has the shares that were taken, the code's those that
    were answered; what the code's states say of convolutions, these say of any choice. The code
    draws evenly for one episode more, begins with noise * noise_decay, and leaves the last layers
    as PyTorch makes them; here they are within 0.003, as in DDPG, which is what its unused `init_w`
    says.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> jp.plan.amc(found, loss, episodes=30, warmup=29, hidden=8).widths
    {'first': 3, 'second': 2}
    """
    check_problem(problem)
    episodes = check_count(episodes, "episodes", "episodes=800.", BudgetError)
    warmup = check_count(warmup, "warmup", "warmup=100.", BudgetError)
    noise = check_positive(noise, "noise", "noise=0.5.", BudgetError)
    noise_decay = check_share(noise_decay, "noise_decay", "noise_decay=0.95.", BudgetError)
    hidden = check_count(hidden, "hidden", "hidden=300.", BudgetError)
    seed = check_count(seed, "seed", "seed=0.", BudgetError, least=0)
    head = "losses" if recover is None else "amc"
    known = Losses(
        problem, [evaluate], journal, of=head, loss=lambda _, picks: _loss(losses, picks)
    )
    losses = Recovering(problem, evaluate, recover, variables, known.journal)
    states, random = States(problem), np.random.default_rng(seed)
    now = agent(jax.random.key(seed), STATES, hidden)
    memory = _empty(REMEMBERED * len(problem.choices))
    size = len(problem.choices)
    best = LeastLoss()
    for episode in range(episodes):
        deviation = noise * noise_decay ** max(0, episode - warmup)
        learned = None if episode < warmup else now
        seen, shares, picks = _episode(states, learned, max(deviation, 1e-9), random)
        loss = known.at(picks)
        best.offer(f"episode {episode + 1}", picks, loss)
        _remember(memory, episode, seen, shares, -loss)
        if episode >= warmup:
            filled = min(episode + 1, REMEMBERED) * size
            now = trained(now, memory, random.integers(filled, size=(size, BATCH)))
    given = None if recover is None else _recovered(losses, best.picks)
    return best.allocation(problem, variables=given)


class States:
    """What the agent sees of each choice, f32[10].

    Its place, its kind, its full width and its narrowest, how many axes of variables it has, its
    parameters, and how much of the cost of the first bound goes where it alone is at its narrowest,
    each of these scaled to [0, 1] over all choices; then the share of that cost that has gone by
    now, the share that can go behind it, and the share of the choice before that stays.
    """

    def __init__(self, problem: Problem):
        self.problem, self.prices = problem, Prices(problem)
        self.narrowest = [len(choice.widths) - 1 for choice in problem.choices]
        self.dense = problem.limits[0].dense
        whole = self.prices.start([0] * len(problem.choices))
        rows = np.array([self._row(i, whole) for i in range(len(problem.choices))], float)
        spans = rows.max(0) - rows.min(0)
        self.fixed = (rows - rows.min(0)) / np.where(spans > 0, spans, 1)

    def at(self, place: int, decided: Point, before: float) -> np.ndarray:
        """Returns the state of a choice; `decided` has those before it, and all others whole."""
        behind = decided.copy()
        for i in range(place, len(self.narrowest)):
            behind.move(i, self.narrowest[i])
        cost, least = decided.totals[0], behind.totals[0]
        shares = [1 - cost / self.dense, (cost - least) / self.dense, before]
        return np.array([*self.fixed[place], *shares], np.float32)

    def _row(self, place: int, whole: Point) -> list[float]:
        problem = self.problem
        choice, graph = problem.choices[place], problem.graph
        alone = whole.copy()
        alone.move(place, self.narrowest[place])
        if choice.branch is None:
            kind = list(Kind).index(kinds(graph)[choice.members[0]])
            slots = sum(len(graph.groups[member].slots) for member in choice.members)
        else:
            kind, slots = len(Kind), len(branches(graph)[choice.branch[0]].variables)
        fewer = cost.params(graph, None) - cost.params(graph, problem.keep(alone.picks))
        gone = whole.totals[0] - alone.totals[0]
        return [place, kind, choice.widths[0], choice.widths[-1], slots, fewer, gone]


def taken(point: Point, place: int, share: float) -> float:
    """Moves a choice to the share that stays, or to less, and returns what it then is.

    All choices behind it are at their narrowest, and the costs within the limits.
    """
    widths = point.prices.problem.choices[place].widths
    wanted = round(share * widths[0])
    first = max(i for i, width in enumerate(widths) if width >= wanted)
    for pick in range(first, len(widths)):
        point.move(place, pick)
        if point.holds() and point.surely_holds():
            return widths[pick] / widths[0]
    raise AssertionError("the narrowest widths are within the limits")


def _episode(
    states: States, learned: Agent | None, deviation: float, random: np.random.Generator
) -> tuple[list[np.ndarray], list[float], list[int]]:
    """The states, the shares that stay, and the picks of one pass through the choices."""
    narrow = states.prices.start(states.narrowest)
    decided = states.prices.start([0] * len(states.narrowest))
    seen, shares = list[np.ndarray](), list[float]()
    for place in range(len(states.narrowest)):
        seen.append(states.at(place, decided, shares[-1] if shares else 1.0))
        if learned is None:
            share = float(random.uniform())
        else:
            share = noisy(float(_act(learned.actor, seen[-1])[0]), deviation, random)
        shares.append(taken(narrow, place, share))
        decided.move(place, narrow.picks[place])
    return seen, shares, list(narrow.picks)


def _loss(losses: Recovering, picks: Sequence[int]) -> Any:
    keep = losses.problem.keep(picks)
    if losses.recover is None:
        return losses.evaluate(keep)
    return losses.evaluate(keep, _recovered(losses, picks))


def _recovered(losses: Recovering, picks: Sequence[int]) -> Any:
    """The variables, recovered behind each choice that is narrowed, in turn."""
    assert losses.recover is not None
    variables = losses.variables
    for place, pick in enumerate(picks):
        if pick:
            rest = [0] * (len(picks) - place - 1)
            variables = losses.recover(variables, losses.problem.keep([*picks[: place + 1], *rest]))
    return variables


def _empty(size: int) -> Batch:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros((size, *shape), np.float32)

    return Batch(zeros(STATES), zeros(1), zeros(), zeros(STATES), zeros())


def _remember(
    memory: Batch, episode: int, seen: list[np.ndarray], shares: list[float], reward: float
) -> None:
    """Writes an episode in the place of the oldest."""
    start = episode % REMEMBERED * len(seen)
    rows = slice(start, start + len(seen))
    memory.state[rows], memory.action[rows, 0] = seen, shares
    memory.reward[rows] = reward
    memory.after[rows] = [*seen[1:], seen[-1]]
    memory.ended[rows] = [*[0] * (len(seen) - 1), 1]

"""Deep deterministic policy gradients: an actor of one action in [0, 1], and its critic.

Source: Lillicrap et al., "Continuous Control with Deep Reinforcement Learning", ICLR 2016, with the
constants of He et al., "AMC", ECCV 2018, and its code.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

TAU, DISCOUNT, MOVING = 0.01, 1.0, 0.5
"""How fast targets follow, what rewards to come count, and how fast the average reward follows."""
ACTOR, CRITIC = optax.adam(1e-4), optax.adam(1e-3)
LAST = 0.003
"""The largest first weight of the last layers."""

Layers = list[Mapping[str, Any]]


class Batch(NamedTuple):
    """Transitions: f32[n, states], f32[n, 1], f32[n], f32[n, states], f32[n], 1 where one ends."""

    state: Any
    action: Any
    reward: Any
    after: Any
    ended: Any


class Agent(NamedTuple):
    """Both networks, those that targets come from, and the states of the optimizers."""

    actor: Layers
    critic: Layers
    actor_target: Layers
    critic_target: Layers
    actor_state: Any
    critic_state: Any
    average: Any  # of rewards; NaN before the first batch


def agent(key: Any, states: int, hidden: int) -> Agent:
    """Returns a new agent, its layers drawn from within 1 / sqrt(inputs)."""
    keys = jax.random.split(key, 7)
    wide, last = 1 / np.sqrt(hidden), LAST
    actor = [
        _layer(keys[0], states, hidden, 1 / np.sqrt(states)),
        _layer(keys[1], hidden, hidden, wide),
        _layer(keys[2], hidden, 1, last),
    ]
    critic = [
        _layer(keys[3], states, hidden, 1 / np.sqrt(states)),
        _layer(keys[4], 1, hidden, 1.0),
        _layer(keys[5], hidden, hidden, wide),
        _layer(keys[6], hidden, 1, last),
    ]
    average = jnp.array(jnp.nan, jnp.float32)
    return Agent(actor, critic, actor, critic, ACTOR.init(actor), CRITIC.init(critic), average)


def act(actor: Layers, state: Any) -> Any:
    """Returns the actions in [0, 1] of states, f32[..., 1]."""
    x = jax.nn.relu(_dense(actor[0], state))
    return jax.nn.sigmoid(_dense(actor[2], jax.nn.relu(_dense(actor[1], x))))


def worth(critic: Layers, state: Any, action: Any) -> Any:
    """Returns what actions are worth, f32[n]."""
    x = jax.nn.relu(_dense(critic[0], state) + _dense(critic[1], action))
    return _dense(critic[3], jax.nn.relu(_dense(critic[2], x)))[..., 0]


def updated(old: Agent, batch: Batch) -> Agent:
    """Returns the agent after one step on a batch: the critic, then the actor, then the targets.

    Rewards are less their moving average.
    """
    mean = batch.reward.mean()
    moved = old.average + MOVING * (mean - old.average)
    average = jnp.where(jnp.isnan(old.average), mean, moved)
    to_come = worth(old.critic_target, batch.after, act(old.actor_target, batch.after))
    goal = batch.reward - average + DISCOUNT * (1 - batch.ended) * to_come

    def missed(critic: Layers) -> Any:
        return jnp.mean((worth(critic, batch.state, batch.action) - goal) ** 2)

    critic, critic_state = _stepped(CRITIC, missed, old.critic, old.critic_state)

    def poor(actor: Layers) -> Any:
        return -jnp.mean(worth(critic, batch.state, act(actor, batch.state)))

    actor, actor_state = _stepped(ACTOR, poor, old.actor, old.actor_state)
    follow = partial(jax.tree.map, lambda slow, fast: slow + TAU * (fast - slow))
    return Agent(
        actor,
        critic,
        follow(old.actor_target, actor),
        follow(old.critic_target, critic),
        actor_state,
        critic_state,
        average,
    )


@jax.jit
def trained(old: Agent, memory: Batch, rows: Any) -> Agent:
    """Returns the agent after a step on each of the batches, whose rows are int[steps, n]."""

    def step(now: Agent, chosen: Any) -> tuple[Agent, None]:
        return updated(now, jax.tree.map(lambda x: x[chosen], memory)), None

    return jax.lax.scan(step, old, rows)[0]


def noisy(mean: float, deviation: float, random: np.random.Generator) -> float:
    """Returns a draw of the normal distribution truncated to [0, 1]."""
    from scipy.special import ndtr, ndtri

    low, high = ndtr((0 - mean) / deviation), ndtr((1 - mean) / deviation)
    drawn = mean + deviation * ndtri(low + random.uniform() * (high - low))
    return float(np.clip(drawn, 0, 1))


def _layer(key: Any, ins: int, outs: int, bound: float) -> Mapping[str, Any]:
    one, two = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(one, (ins, outs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(two, (outs,), minval=-bound, maxval=bound),
    }


def _dense(layer: Mapping[str, Any], x: Any) -> Any:
    y = x @ layer["kernel"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)


def _stepped(
    optimizer: optax.GradientTransformation, loss: Any, parameters: Layers, state: Any
) -> tuple[Layers, Any]:
    changes, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)
    return optax.apply_updates(parameters, changes), state  # pyright: ignore[reportReturnType]

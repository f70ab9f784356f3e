"""Statistics of rewards within groups and over the batch, [Q, G]: scores, centres, best of k.

Where all values that are compared are equal, every function gives exactly 0, whatever the rounding
of their mean.
"""

import math

import jax.numpy as jnp

from rlvr_jax.structs import Array


def zscore(x: Array, floor: float, ddof: int = 1, counted: Array | bool = True) -> Array:
    """Compute (x - mean) / max(std, floor) over all entries of x; entries that do not count are 0.

    Only entries that `counted` marks enter mean and std.  The sum of squared deviations is divided
    by n - `ddof`, and by 1 if that is less.  If all counted values are equal the result is exactly
    0 (arXiv 2503.23829, section 3.3), also for a single value.  `floor` has the units of x: where
    std is smaller, x - mean is divided by `floor` instead, so that mere noise is not scaled up to
    unit size.
    """
    counted = jnp.broadcast_to(counted, x.shape)
    mean, spread, same = moments(x, tuple(range(x.ndim)), floor, ddof, counted)
    return jnp.where(same | ~counted, 0.0, (x - mean) / spread)


def zscore_groups(x_QG: Array, floor: float, ddof: int = 1) -> Array:
    """Compute `zscore` of each group by itself."""
    mean, spread, same = moments(x_QG, (1,), floor, ddof, jnp.ones(x_QG.shape, bool))
    return jnp.where(same, 0.0, (x_QG - mean) / spread)


def moments(
    x: Array, axes: tuple[int, ...], floor: float, ddof: int, counted: Array
) -> tuple[Array, Array, Array]:
    """Return the mean, the floored standard deviation, and whether all values are equal."""
    count = jnp.sum(counted, axes, keepdims=True)
    mean = jnp.mean(x, axes, keepdims=True, where=counted)
    std = jnp.sqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True, where=counted))
    std = std * jnp.sqrt(count / jnp.maximum(count - ddof, 1))
    largest = jnp.max(x, axes, keepdims=True, initial=-jnp.inf, where=counted)
    smallest = jnp.min(x, axes, keepdims=True, initial=jnp.inf, where=counted)
    return mean, jnp.maximum(std, floor), largest == smallest


def leave_one_out(x_QG: Array) -> Array:
    """Subtract from each entry the mean of the other entries of its group (RLOO, 2402.14740).

    The result is (G / (G - 1)) (x_i - mean).  A group of one has no others and gives 0.
    """
    groups = x_QG.shape[1]
    return group_centre(x_QG) * (groups / max(groups - 1, 1))


def group_centre(x_QG: Array) -> Array:
    """Subtract from each entry the mean of its group; exactly 0 where all entries are equal."""
    return jnp.where(_same(x_QG), 0.0, x_QG - jnp.mean(x_QG, 1, keepdims=True))


def length_centre(x_QG: Array, length_QG: Array) -> Array:
    """Subtract from each entry the length-weighted mean of its group (OPO, arXiv 2505.23585).

    The baseline is sum_j l_j x_j / sum_j l_j, where l_j is the number of tokens of response j.
    """
    length_QG = length_QG.astype(x_QG.dtype)
    total_Q1 = jnp.maximum(jnp.sum(length_QG, 1, keepdims=True), 1)
    mean_Q1 = jnp.sum(length_QG * x_QG, 1, keepdims=True) / total_Q1
    return jnp.where(_same(x_QG), 0.0, x_QG - mean_Q1)


def over_mean(x_QG: Array, floor: float) -> Array:
    """Compute (x - mean) / mean of each group (MaxRL, arXiv 2602.02710), for rewards >= 0.

    With rewards of 0 and 1 a right response gets weight in inverse proportion to the share of right
    responses.  A group whose mean is not above `floor` teaches nothing and gives 0: it has no
    success to learn from.
    """
    mean_Q1 = jnp.mean(x_QG, 1, keepdims=True)
    known = mean_Q1 > floor
    return jnp.where(known, group_centre(x_QG) / jnp.where(known, mean_Q1, 1.0), 0.0)


def best_of_sets(x_QG: Array, k: int, floor: float | None) -> Array:
    """Compute the advantage of each response in pass@k training (arXiv 2508.10751).

    A set of k >= 2 responses to a prompt is rewarded as its best member.  The advantage of a
    response is the mean reward of the sets that it belongs to, minus the mean reward of all sets,
    divided by the standard deviation of the rewards of all sets (at least `floor`; None: not
    divided).  The sums over sets are done in closed form: among responses in rising order, counted
    from 0, the one in place j is the best of C(j, k - 1) sets.  For rewards of 0 and 1 this is the
    paper's analytical advantage.  Among k responses or fewer no set is a choice: the result is 0.
    """
    groups = x_QG.shape[1]
    if groups <= k:
        return jnp.zeros_like(x_QG)
    order_QG = jnp.argsort(x_QG, 1, stable=True)
    sorted_QG = jnp.take_along_axis(x_QG, order_QG, 1)

    def chances(below: int, others: int, sets: int) -> Array:
        """Share of `sets` sets whose best is in place j: `others` more of the j - `below` lower."""
        ways = [math.comb(max(j - below, 0), others) for j in range(groups)]
        return jnp.asarray([count / sets for count in ways], x_QG.dtype)

    share_G = chances(0, k - 1, math.comb(groups, k))
    mean_Q1 = jnp.sum(share_G * sorted_QG, 1, keepdims=True)
    of_own = math.comb(groups - 1, k - 1)  # sets that a response belongs to
    own_G = chances(0, k - 1, of_own)
    # The later place j is the best of C(j - 1, k - 2) of the sets that a response belongs to.
    other_G = chances(1, k - 2, of_own)
    later_QG = jnp.cumsum((other_G * sorted_QG)[:, ::-1], 1)[:, ::-1] - other_G * sorted_QG
    centred_QG = own_G * sorted_QG + later_QG - mean_Q1
    if floor is not None:
        square_Q1 = jnp.sum(share_G * (sorted_QG - mean_Q1) ** 2, 1, keepdims=True)
        centred_QG = centred_QG / jnp.maximum(jnp.sqrt(square_Q1), floor)
    back_QG = jnp.argsort(order_QG, 1)
    same_Q1 = sorted_QG[:, k - 1 : k] == sorted_QG[:, -1:]  # the worst set is as good as the best
    return jnp.where(same_Q1, 0.0, jnp.take_along_axis(centred_QG, back_QG, 1))


def _same(x_QG: Array) -> Array:
    return jnp.max(x_QG, 1, keepdims=True) == jnp.min(x_QG, 1, keepdims=True)

"""Attention on NVIDIA GPUs: cuDNN's fused kernel through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp


def cudnn(
    q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, *, share=(0, 1), implementation="cudnn"
):
    """Return attention in bfloat16 or float16; a query that sees nothing has output 0.

    cuDNN gets the whole mask, T * S booleans per row.  Its backward pass needs even T and S, so an
    odd number of queries or columns is padded by one that is masked out.

    Raises:
      ValueError: there is a softcap, or the dtype is another one.
    """
    if softcap:
        raise ValueError("cudnn has no softcap")
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"cudnn takes bfloat16 or float16, not {q_BTNH.dtype}")
    queries, columns = q_BTNH.shape[1], k_BSKH.shape[1]
    number, parts = share
    last_T = columns - (parts - number) * queries + jnp.arange(queries)
    see_BTS = (jnp.arange(columns) <= last_T[:, None]) & valid_BS[:, None]
    sees_BT = jnp.any(see_BTS, axis=-1)
    odd_t, odd_s = queries % 2, columns % 2

    def even(x_BTNH, more):
        return jnp.pad(x_BTNH, ((0, 0), (0, more), (0, 0), (0, 0)))

    out_BTNH = jax.nn.dot_product_attention(
        even(q_BTNH, odd_t),
        even(k_BSKH, odd_s),
        even(v_BSKH, odd_s),
        mask=jnp.pad(see_BTS, ((0, 0), (0, odd_t), (0, odd_s)))[:, None],
        scale=scale,
        implementation=implementation,
    )[:, :queries]
    return jnp.where(sees_BT[:, :, None, None], out_BTNH, jnp.zeros_like(out_BTNH))

"""One command that measures a device: `python -m implicit_rl.measure_device --output=DIR`.

It first checks the device's correctness, then measures its speed. It needs only jax, flax, optax,
gin and gymnax.
"""

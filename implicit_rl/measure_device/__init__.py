"""One command that measures a device: `python -m implicit_rl.measure_device --output=DIR`.

First whether the device computes right, then what it does in a second. It needs jax, flax, optax,
gin and gymnax alone.
"""

"""Several devices, on one or many machines: placement of an update's arrays, and agreement.

A mesh has two axes: 'seeds', along which the states of several seeds are split, and 'batch', along
which each batch is. XLA derives the communication from that; the update is the same program.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Placement:
  """Placement of an update's arrays on devices.

  Args:
    count: devices to use; None is all there are, on all hosts.
    seeds: number of states, or None for one state without a leading axis. The seeds are split among
      the largest number of devices that divides both counts; the remaining devices split each
      batch.

  Attributes:
    mesh: of the devices, 'seeds' × 'batch'.

  Raises:
    ValueError: for fewer than one device or more than there are, or on several hosts, not all.
  """

  def __init__(self, count: int | None, seeds: int | None = None):
    there = jax.devices()  # Of all hosts.
    count = len(there) if count is None else count
    if not isinstance(count, int) or not 1 <= count <= len(there):
      raise ValueError(f'Learner.devices must lie in [1, {len(there)}] here, got {count!r}.')
    if jax.process_count() > 1 and count < len(there):
      raise ValueError(
        f'Learner.devices must be None on several hosts, which share all {len(there)} devices.'
      )
    along_seeds = math.gcd(seeds or 1, count)
    self.mesh = Mesh(np.array(there[:count]).reshape(along_seeds, -1), ('seeds', 'batch'))
    lead = () if seeds is None else ('seeds',)
    self._state = NamedSharding(self.mesh, PartitionSpec(*lead))
    self._batches = NamedSharding(self.mesh, PartitionSpec(None, *lead, 'batch'))
    self._everywhere = NamedSharding(self.mesh, PartitionSpec())
    self._gather = jax.jit(lambda tree: tree, out_shardings=self._everywhere)
    self._store: tuple[Any, Any] = (None, None)

  def check_batch(self, size: int) -> None:
    """Raises ValueError if a batch of this size cannot be split evenly."""
    parts = self.mesh.shape['batch']
    if size % parts:
      raise ValueError(
        f'Agent.batch_size ({size}) must be a multiple of the {parts} devices that share a batch '
        '(Learner.devices).'
      )

  def state(self, state: Any) -> Any:
    """Returns a learner's state on the devices of updates."""
    return jax.tree.map(lambda x: _put(x, self._state), state)

  def batches(self, batches: Any) -> Any:
    """Returns batches or rows [K, B, ...], of seeds [K, N, B, ...], on the devices of updates."""
    return jax.tree.map(lambda x: _put(x, self._batches), batches)

  def store(self, store: Any) -> Any:
    """Returns a dataset in device memory, complete on every device; the last one is cached."""
    if self._store[0] is not store:
      self._store = store, jax.tree.map(lambda x: _put(x, self._everywhere), store)
    return self._store[1]

  def keep(self, state: Any, metrics: Any) -> tuple[Any, Any]:
    """Keeps the state's placement within a compiled update; metrics are on all devices."""
    return (
      jax.lax.with_sharding_constraint(state, self._state),
      jax.lax.with_sharding_constraint(metrics, self._everywhere),
    )

  def gathered(self, state: Any) -> Any:
    """Returns a state on this process's first device, for acting, measuring and saving."""
    first = jax.local_devices()[0]
    whole = self._gather(state)
    return jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), first), whole)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
  if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
    return x
  if jax.process_count() == 1:
    return jax.device_put(x, sharding)
  whole = np.asarray(x)  # Every host has all of it.
  return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


# --- several hosts --------------------------------------------------------------------------------


def connect(coordinator: str, num_hosts: int, host: int) -> None:
  """Joins the processes of a run. Call it before anything else asks JAX for devices.

  Args:
    coordinator: address and port of the first process, as '10.0.0.1:1234'; 'auto' lets JAX find
      them, which works on TPU pods, SLURM and Kubernetes.
    num_hosts: number of processes.
    host: index of this process, from 0.

  Raises:
    ValueError: for numbers out of range.
    RuntimeError: if the other processes do not connect.
  """
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  if coordinator == 'auto':
    jax.distributed.initialize()
    return
  if ':' not in coordinator:
    raise ValueError(f'--coordinator is HOST:PORT or auto, not {coordinator!r}.')
  if not 0 <= host < num_hosts:
    raise ValueError(f'--host must lie in [0, {num_hosts}), the number of --num_hosts, got {host}.')
  jax.distributed.initialize(coordinator, num_hosts, host)


def agree(what: Mapping[str, Any]) -> None:
  """Raises ValueError on every host if their settings differ. Waits for all hosts.

  Args:
    what: settings by name, as JSON values.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(what, sort_keys=True, default=str).encode()
  digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest)  # [hosts, 32]
  differing = [host for host, other in enumerate(digests) if (other != digests[0]).any()]
  if differing:
    raise ValueError(
      f'Hosts {", ".join(map(str, differing))} were started with other settings than host 0: give '
      'all of them the same --gin_files, --gin_bindings, --data_dir and --seed.'
    )


def directory_of_this_host(base_dir: str) -> str:
  """Returns the directory that this host writes to: `base_dir` for the first host only.

  All hosts compute the same, so one record is enough. They read the same checkpoints. All of them
  must be able to read the directory.
  """
  if jax.process_count() == 1:
    return base_dir
  mine = base_dir
  if jax.process_index():
    mine = tempfile.mkdtemp(prefix='implicit_rl_host_')
    checkpoints = os.path.join(base_dir, 'checkpoints')
    if os.path.isdir(checkpoints):
      shutil.copytree(checkpoints, os.path.join(mine, 'checkpoints'))
  multihost_utils.sync_global_devices('checkpoints are copied')
  return mine

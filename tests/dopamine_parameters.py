"""Parameters of our Atari network as Dopamine's networks name and lay them out."""

from typing import Any


def as_dopamines(params: Any) -> Any:
  """The hidden layer's kernel by columns, as Flax keeps it, and counted among the dense layers."""
  layers = dict(params['params'])
  hidden = layers.pop('RowDense_0')
  layers['Dense_1'] = layers.pop('Dense_0')
  layers['Dense_0'] = {'kernel': hidden['kernel'].T, 'bias': hidden['bias']}
  return {'params': layers}

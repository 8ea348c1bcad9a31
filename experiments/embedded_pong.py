r"""Makes the embedded Pong sample: whole episodes of an online DQN's replay.

    python experiments/atari_frames.py --game=Pong --steps=300000 --updates_per_step=0.5 \
      --replay=pong_replay.npz                                            (about an hour, 1 core)
    python experiments/embedded_pong.py --replay=pong_replay.npz

The sample is not the paper's data; it has its format: episodes of several stages of one training
run, one split `checkpoint_XX` a stage, exploration included.
"""

import numpy as np
from absl import app, flags

from implicit_rl.data.formats import tfds_writer
from implicit_rl.data.sources.tfds_replay import EMBEDDED

FLAGS = flags.FLAGS
flags.DEFINE_string('replay', 'pong_replay.npz', 'The replay that atari_frames.py wrote.')
flags.DEFINE_string('output', str(EMBEDDED), 'Directory that the dataset is put in.')

_STAGES = 4


def main(_: list[str]) -> None:
  """Writes the first episode begun in each stage of training as the dataset in the package."""
  with np.load(FLAGS.replay) as file:
    replay = {name: file[name] for name in ('observation', 'action', 'reward', 'terminal')}
    ends = np.flatnonzero(file['episode_end']) + 1
  starts = np.append(0, ends[:-1])
  first = [int(np.flatnonzero(starts >= stage * ends[-1] / _STAGES)[0]) for stage in range(_STAGES)]
  print('stage, first step, steps, return:')
  for stage, i in enumerate(first):
    total = int(replay['reward'][starts[i] : ends[i]].sum())
    print(f'{stage}, {starts[i]}, {ends[i] - starts[i]}, {total}')
  episodes = (
    (stage, {name: values[starts[i] : ends[i]] for name, values in replay.items()})
    for stage, i in enumerate(first)
  )
  print(
    tfds_writer.write_dataset(
      FLAGS.output, tfds_writer.ATARI, 'Pong_run_1', episodes, overwrite=True
    )
  )


if __name__ == '__main__':
  app.run(main)

"""Fills in the reference scores of implicit_rl/analysis/atari_scores.csv that no paper's table has.

    git clone https://github.com/google/dopamine
    python experiments/atari_scores.py --baselines=dopamine/baselines/atari/data     (15 minutes)

With `--curves=ROWS.csv` it writes Dopamine's published curves of the paper's 16 games instead, as
rows that `python -m implicit_rl.analysis` reads.

Two columns: `dqn` of all games, from the training curves that Dopamine publishes of the agent whose
replay is the DQN Replay dataset; `random` of the games without a human score, which is measured.
Everything else in the file is left as it is.
"""

import json
import pathlib

import ale_py
import gymnasium
import numpy as np
import pandas as pd
from absl import app, flags
from ale_py import roms
from tqdm import tqdm

from implicit_rl.analysis import scores, style

FLAGS = flags.FLAGS
flags.DEFINE_string('baselines', None, 'The folder baselines/atari/data of a Dopamine checkout.')
flags.DEFINE_string('curves', None, 'Write the published curves to this file, and nothing else.')
flags.DEFINE_integer('episodes', 20, 'Episodes of random play.', lower_bound=1)
flags.DEFINE_integer('seed', 0, 'Seed of the games and of the random player.')
flags.mark_flag_as_required('baselines')

# Figure 7.
_GAMES = (
  'Asterix Qbert Pong Seaquest Breakout DoubleDunk Jamesbond MsPacman SpaceInvaders Zaxxon '
  'WizardOfWor YarsRevenge Enduro RoadRunner BeamRider DemonAttack'
).split()
_AGENTS = ('DQN', 'C51', 'Rainbow', 'IQN')
_RUNS, _LAST = 5, 5  # five runs; the last five of the 199 iterations


def random_score(game: str) -> float:
  """Mean return of uniformly random actions, sticky, in episodes of 108,000 frames at most."""
  ale = ale_py.ALEInterface()
  ale.setInt('random_seed', FLAGS.seed)
  ale.setFloat('repeat_action_probability', 0.25)
  ale.setInt('frame_skip', 4)
  ale.setInt('max_num_frames_per_episode', 108_000)
  ale.loadROM(roms.get_rom_path(gymnasium.spec(f'ALE/{game}-v5').kwargs['game']))
  actions = ale.getMinimalActionSet()
  rng = np.random.default_rng(FLAGS.seed)
  returns = []
  for _ in tqdm(range(FLAGS.episodes), desc=game, leave=False):
    ale.reset_game()
    total = 0.0
    while not ale.game_over():  # Also true once the frames are used up.
      total += ale.act(actions[rng.integers(len(actions))])
    returns.append(total)
  return float(np.mean(returns))


def published(game: str) -> pd.DataFrame:
  """Dopamine's curves of one game: Agent, Iteration, Value; the runs follow each other."""
  path = pathlib.Path(FLAGS.baselines) / f'{game.lower()}.json'
  return pd.DataFrame(json.loads(path.read_text()))


def curves() -> pd.DataFrame:
  """The published curves of the 16 games as rows of a tidy table."""
  parts = []
  for game in _GAMES:
    part = published(game).rename(
      columns={'Agent': 'variant', 'Iteration': 'iteration', 'Value': 'eval_return'}
    )
    part = part[part['variant'].isin(_AGENTS)]
    part['seed'] = part.groupby(['variant', 'iteration']).cumcount()
    parts.append(part.assign(suite='atari', game=game))
  return pd.concat(parts, ignore_index=True)


def dqn_score(game: str) -> float:
  """Mean return of Dopamine's DQN over five runs and their last five iterations."""
  curve = published(game)
  dqn = curve[curve['Agent'] == 'DQN']
  final = dqn[dqn['Iteration'] > dqn['Iteration'].max() - _LAST]
  if len(final) != _RUNS * _LAST:
    raise ValueError(f'{game} has {len(final)} final values of DQN, not {_RUNS * _LAST}.')
  return float(final['Value'].mean())


def main(argv: list[str]) -> None:
  """Rewrites the file; its comments stay."""
  del argv
  if FLAGS.curves:
    style.write_csv(curves(), FLAGS.curves)
    return
  gymnasium.register_envs(ale_py)
  ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
  comments = [line for line in scores.ATARI_FILE.read_text().splitlines() if line.startswith('#')]
  table = scores.references()
  table['dqn'] = [round(dqn_score(game), 1) for game in table.index]
  for game in table.index[table['human'].isna()]:
    table.loc[game, 'random'] = round(random_score(game), 1)
  with scores.ATARI_FILE.open('w') as file:
    file.write('\n'.join(comments) + '\n')
    table.to_csv(file, lineterminator='\n')


if __name__ == '__main__':
  app.run(main)

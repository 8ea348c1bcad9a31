"""Lists the games by family: `implicit-rl environments`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from implicit_rl.environments import atari_games, gymnax, minatar, mujoco


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints every game's name as in gin files."""
  argparse.ArgumentParser(
    prog='implicit-rl environments', description='Lists the games by family.'
  ).parse_args(arguments)
  for family, games in (
    (f'Atari ({len(atari_games.games())} games, AtariEnvironment.game)', atari_games.games()),
    ('gymnax (GymnaxEnvironment.name)', gymnax.names()),
    ('MinAtar (MinAtarEnvironment.game)', minatar.GAMES),
    ('MuJoCo (MuJoCoEnvironment.task)', mujoco.TASKS),
  ):
    print(family)
    print(textwrap.fill(', '.join(games), width=100, initial_indent='  ', subsequent_indent='  '))


if __name__ == '__main__':
  main()

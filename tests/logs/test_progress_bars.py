"""A bar at a terminal, lines elsewhere: seldom ones, and none for what is short."""

import io
import sys

import pytest
import tqdm.auto as tqdm

from implicit_rl.logs import progress_bars
from tests.command_line import run

ONLINE = 'gin_configs/minatar/online_dqn.gin'


def test_lines_come_every_ten_seconds_or_twentieth_part_whichever_is_later(capsys):
  now = 0.0
  with progress_bars.Lines(2000, 'training', 'steps', done=1000, clock=lambda: now) as lines:
    for _ in range(1000):
      now += 0.0625  # seconds
      lines.update(1)
  said = capsys.readouterr().err.splitlines()
  assert said[0] == 'training: 1,160 of 2,000 steps, 52 s left'  # 16 a second.
  assert len(said) == 6 and said[-1] == 'training: 1,960 of 2,000 steps, 2 s left'
  slow = progress_bars.Lines(2000, 'training', 'steps', clock=lambda: now)
  for _ in range(2000):
    now += 3600.0
    slow.update()
  assert len(capsys.readouterr().err.splitlines()) == 20
  assert lines.n == slow.n == 2000


def test_a_bar_is_for_a_terminal(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  for stream, kind in ((Terminal(), tqdm.tqdm), (io.StringIO(), progress_bars.Lines)):
    monkeypatch.setattr(sys, 'stderr', stream)
    with progress_bars.bar(3, 'counting', 'sheep') as bar:
      assert isinstance(bar, kind)
      bar.update(2)
      assert bar.n == 2
    assert ('\r' in stream.getvalue()) == (kind is tqdm.tqdm)


@pytest.mark.parametrize('history', [8, 100])
@pytest.mark.exhaustive
def test_a_runs_log_has_lines_alone_and_says_while_it_waits(tmp_path, capfd, history):
  settings = {'Agent.min_replay_history': history, 'OnlineRunner.num_iterations': 2}
  run(tmp_path, ONLINE, **settings)
  said = capfd.readouterr()
  assert '\r' not in said.out + said.err and '%|' not in said.err
  waits = f'updates 0 (none before step {history}, min_replay_history; now at 16)'
  assert (waits in said.out) == (history == 100)

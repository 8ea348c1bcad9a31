"""Every command on small logs: its files are there, and hold what they should."""

import pathlib
import xml.etree.ElementTree as ET

import cv2
import pandas as pd
import pytest

from implicit_rl.analysis import __main__ as command_line
from implicit_rl.analysis import runs

SVG = '{http://www.w3.org/2000/svg}'


def run(*arguments):
  assert command_line.main([str(argument) for argument in arguments]) == 0


def texts(path):
  """What a figure says: its text stays text in SVG."""
  return ' | '.join(''.join(node.itertext()) for node in ET.parse(path).iter(f'{SVG}text'))


def check_figure(stem, *said):
  """The three files of a figure; the words are in it, and it is not empty."""
  image = cv2.imread(f'{stem}.png')
  assert image.shape[0] > 300 and image.shape[1] > 500
  assert len({tuple(pixel) for pixel in image.reshape(-1, 3)[::7]}) > 20
  words = texts(f'{stem}.svg')
  for word in said:
    assert word in words
  return pd.read_csv(f'{stem}.csv')


@pytest.mark.exhaustive
def test_curves_of_real_runs(real_runs, tmp_path):
  run('curves', real_runs, '--metric', 'srank', 'td_error', '--output', tmp_path / 'curves')
  data = check_figure(
    tmp_path / 'curves', 'gradient updates', 'srank', 'TD error', 'DQN + lp_penalty 0.001 (1 run)'
  )
  assert data.groupby(['variant', 'metric']).size().tolist() == [3, 3, 3, 3]


@pytest.mark.exhaustive
def test_curves_of_several_games_and_the_band_named_in_the_title(study, tmp_path):
  run('curves', study, '--band', 'std', '--x', 'iteration', '--output', tmp_path / 'curves')
  said = 'Seaquest', 'iteration', '± 1 standard deviation', 'DQN + penalty (3 runs)'
  check_figure(tmp_path / 'curves', *said)


@pytest.mark.exhaustive
def test_names_given_by_hand(real_runs, tmp_path):
  run('curves', f'plain={real_runs}/dqn', f'with={real_runs}/dqn_lp', '--output', tmp_path / 'c')
  check_figure(tmp_path / 'c', 'plain (1 run)', 'with (1 run)')


def test_bars_put_the_papers_score_beside_the_honest_one(study, tmp_path):
  run('bars', study, '--last', 2, '--output', tmp_path / 'bars')
  said = 'best evaluation', 'mean of last 2 evaluations', 'improvement (%)', 'better in', 'Pong'
  data = check_figure(tmp_path / 'bars', *said)
  assert len(data) == 4 and (data['last_percent'] > 0).all()


def test_scores_as_csv_latex_and_markdown(study, tmp_path):
  run('scores', study, '--normalise', 'dqn', '--output', tmp_path / 'scores')
  data = pd.read_csv(tmp_path / 'scores.csv')
  assert (data['best_mean'] > data['last_mean']).all() and len(data) == 8
  assert '\\begin{tabular}' in (tmp_path / 'scores.tex').read_text()
  assert '| mean of last 5 |' in (tmp_path / 'scores.md').read_text()


def test_the_table_of_real_runs(real_runs, tmp_path):
  run('table', real_runs, '--output', tmp_path / 'table.csv')
  assert len(pd.read_csv(tmp_path / 'table.csv')) == 6


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('curves', '{study}', '--metric', 'rank'), "no run logged 'rank'"),
    (('curves', '{study}', '--x', 'environment_steps'), "no run logged 'environment_steps'"),
    (('curves', 'nowhere'), 'nowhere does not exist'),
    (('bars', '{study}', '--pair', 'DQN'), '--pair=DQN is not BASE:VARIANT'),
    (('bars', '{study}', '--pair', 'DQN:CQL'), "unknown variant 'CQL'"),
    (('scores', '{real}', '--normalise', 'human'), 'no human score of Breakout (minatar)'),
  ],
)
def test_wrong_input_ends_in_one_line(arguments, message, study, real_runs, tmp_path, capsys):
  filled = [argument.format(study=study, real=real_runs) for argument in arguments]
  assert command_line.main([*filled, '--output', str(tmp_path / 'x')]) == 1
  line = capsys.readouterr().err
  assert message in line and line.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_an_ending_chooses_the_format_and_a_wrong_one_is_refused(study, tmp_path, capsys):
  run('curves', study, '--output', tmp_path / 'deep' / 'a.svg')
  assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['a.svg']
  assert command_line.main(['curves', str(study), '--output', str(tmp_path / 'a.gif')]) == 1
  assert 'a.gif ends in none of .png' in capsys.readouterr().err


@pytest.mark.exhaustive
def test_spectra_of_real_runs(real_runs, tmp_path):
  run('spectra', real_runs, '--output', tmp_path / 'spectra')
  said = 'DQN (seed 3)', 'index i, from the largest', 'gradient updates', 'i = 64', 'σᵢ / σ₁'
  data = check_figure(tmp_path / 'spectra', *said)
  assert data['ratio'].between(0, 1).all()
  assert (data[data['index'] == 1]['ratio'] == 1).all() and len(data) == 2 * 3 * 64


@pytest.mark.parametrize('y', ['eval_return', 'td_error'])
@pytest.mark.exhaustive
def test_scatter_names_the_correlation(y, study, real_runs, tmp_path):
  run('scatter', study, '--y', y, '--output', tmp_path / 'scatter')
  data = check_figure(tmp_path / 'scatter', 'Spearman', 'Seaquest', 'DQN + penalty', 'mean ρ ')
  assert data['correlation'].between(-1, 1).all() and len(data) == 24
  run('scatter', real_runs, '--y', y, '--output', tmp_path / 'real.png')


@pytest.mark.exhaustive
def test_rliables_figures(study, tmp_path):
  few = '--reps', 30
  run('aggregates', study, '--normalise', 'human', *few, '--output', tmp_path / 'aggregates')
  said = 'IQM (higher is better)', 'optimality gap (lower is better)', 'human-normalised score'
  data = check_figure(tmp_path / 'aggregates', *said, 'DQN + penalty', 'mean of last 5')
  assert (data['low'] <= data['value']).all() and (data['value'] <= data['high']).all()
  run('profiles', study, *few, '--output', tmp_path / 'profiles')
  data = check_figure(tmp_path / 'profiles', 'share of runs above τ', 'return τ', 'best evaluation')
  assert data['value'].between(0, 1).all()
  run('improvement', study, *few, '--output', tmp_path / 'improvement')
  data = check_figure(tmp_path / 'improvement', 'scores higher', 'over DQN')
  assert data['value'].between(0.5, 1).all()


RESULTS = pathlib.Path(command_line.__file__).parents[2] / 'docs' / 'results'


def committed_rows():
  """The tables below docs/results that have a row per run and iteration."""
  for path in sorted(RESULTS.rglob('*.csv')):
    names = path.read_text(encoding='utf-8').split('\n', 1)[0].split(',')
    if {'variant', 'seed', 'updates', 'srank', 'eval_return'} <= set(names):
      yield path


@pytest.mark.parametrize('command', ['curves', 'scatter', 'scores'])
def test_committed_results_can_be_drawn_anew(command, tmp_path):
  tables = list(committed_rows())
  assert len(tables) >= 9
  for path in tables:
    assert len(runs.load([path])) > 5
  run(command, RESULTS / 'gridworld' / 'figure_6a.csv', '--output', tmp_path / 'figure_6a')
  written = pd.read_csv(tmp_path / 'figure_6a.csv')
  assert set(written['variant']) == set(
    runs.load([RESULTS / 'gridworld' / 'figure_6a.csv'])['variant']
  )

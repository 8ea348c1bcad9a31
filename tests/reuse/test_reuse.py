"""Trained runs are played, evaluated and exported as they were trained."""

import json
import subprocess
import sys

import gin
import imageio.v3 as imageio
import jax
import numpy as np
import pytest

import implicit_rl
from implicit_rl.environments import minatar
from implicit_rl.logs import jsonl
from implicit_rl.reuse import evaluating, exporting, pictures, playing, zoo
from implicit_rl.running import policy
from tests.command_line import MUJOCO, MUJOCO_REPLAY, ONLINE, run

BREAKOUT = {
  'OfflineRunner.num_iterations': 2,
  'OfflineRunner.max_steps_per_episode': 5,
  'MinAtarCNN.hidden_units': 8,
  'MinAtarEnvironment.num_environments': 3,
}


@pytest.fixture(scope='module')
def breakout(tmp_path_factory):
  path = tmp_path_factory.mktemp('breakout') / 'run'
  run(path, 'gin_configs/minatar/offline_dqn.gin', **BREAKOUT)
  gin.clear_config()
  return implicit_rl.load_run(path)


@pytest.fixture(scope='module')
def hopper(tmp_path_factory):
  path = tmp_path_factory.mktemp('hopper') / 'run'
  run(path, 'gin_configs/mujoco/online_sac.gin', **ONLINE | MUJOCO | MUJOCO_REPLAY)
  gin.clear_config()
  return implicit_rl.load_run(path)


def greedy(loaded, observation):
  return int(np.argmax(loaded.agent.apply(loaded.params, observation[None, None]).q_values[0]))


@pytest.mark.exhaustive
def test_the_policy_is_greedy_in_the_networks_values(breakout):
  environment = breakout.make_environment(3)
  observation = environment.reset()
  for _ in range(4):
    action = breakout.policy(observation)
    assert isinstance(action, int)
    assert action == greedy(breakout, observation)
    observation = environment.step(action)[0]


def test_a_policy_keeps_the_stack_and_forgets_it():
  class Agent:
    """Acts on the oldest observation that it sees."""

    action_shape = ()
    blank_state = np.zeros((3, 2), np.float32)
    state = type('State', (), {'params': ()})

    def policy(self, params, states, key):
      del params, key
      return states[:, 0, 1].astype(int)

  act = policy.Policy(Agent())
  assert [act([0, number]) for number in (5, 6, 7, 8)] == [0, 0, 5, 6]
  act.reset()
  assert [act([0, number]) for number in (1, 2, 3)] == [0, 0, 1]
  with pytest.raises(ValueError, match=r'must have the shape \(2,\), got \(3,\)'):
    act([1, 2, 3])


def test_epsilon_1_plays_at_random(breakout):
  explores = policy.Policy(breakout.agent, 1.0, seed=1)
  observation = breakout.make_environment(0).reset()
  assert len({explores(observation) for _ in range(40)}) == breakout.agent.num_actions
  assert len({breakout.policy(observation) for _ in range(5)}) == 1
  with pytest.raises(ValueError, match=r'epsilon must lie within \[0, 1\], got 1.5'):
    policy.Policy(breakout.agent, 1.5)


def test_an_evaluation_plays_what_the_environment_plays(breakout):
  found = evaluating.evaluate(breakout, 7, seed=5)
  game = minatar.MinAtarEnvironment('Breakout', num_environments=3)
  parts = []
  for part in range(3):
    key = jax.random.fold_in(jax.random.key(5), part)
    parts.append(game.evaluate(breakout.agent.policy, breakout.params, key, 1)[0])
  assert found.returns.shape == found.lengths.shape == (7,)
  np.testing.assert_array_equal(found.returns[:3], parts[0])
  again = evaluating.evaluate(breakout, 7, seed=5)
  np.testing.assert_array_equal(again.returns, found.returns)
  mean = found.returns.astype(float).mean()
  assert found.summary()['return_mean'] == pytest.approx(mean)
  spread = np.sqrt(((found.returns - mean) ** 2).sum() / 6 / 7)
  assert found.summary()['return_standard_error'] == pytest.approx(spread)


def test_commands_print_one_line_and_refuse_in_one(breakout, capsys, tmp_path):
  path = str(breakout.base_dir)
  assert evaluating.main([path, '--episodes=3', '--epsilon=0', '--json']) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed['episodes'] == len(printed['returns']) == 3
  assert evaluating.main([path, '--episodes=2', '--checkpoint=best']) == 0
  assert capsys.readouterr().out.count('\n') == 1
  for command, arguments, expected in (
    (evaluating, [path, '--epsilon=2'], 'epsilon must lie within'),
    (evaluating, [path, '--checkpoint=9'], 'holds no checkpoint of iteration 9'),
    (evaluating, [str(tmp_path / 'none')], 'no such directory'),
    (playing, [path, '--output=game.avi'], 'must end in .gif or .mp4'),
    (playing, [path, '--output=/none/game.gif'], 'no such directory: /none'),
    (exporting, [path, '--output=/none/policy'], 'No such file or directory'),
  ):
    assert command.main(arguments) == 1, arguments
    error = capsys.readouterr().err
    assert expected in error
    assert error.count('\n') == 1
  with pytest.raises(SystemExit):
    evaluating.main([path, '--episodes=0'])
  assert 'must be an int of at least 1, got 0' in capsys.readouterr().err


def test_a_recording_is_what_was_played(breakout, tmp_path, capsys):
  found = playing.record(breakout, episodes=2, max_steps=12, epsilon=0.5, seed=2)
  assert len(found.pictures) in (13, 14)  # The first of each episode, and one after each step.
  assert all(one.shape == (200, 200, 3) for one in found.pictures)
  for name in ('game.gif', 'game.mp4'):
    path = tmp_path / name
    assert (
      playing.main([str(breakout.base_dir), f'--output={path}', '--seed=2', '--max_steps=6']) == 0
    )
    assert capsys.readouterr().out.startswith(f'{path}: iteration 1, ')
    shown = imageio.imread(path, plugin='pillow') if name == 'game.gif' else None
    assert path.stat().st_size > 500
    if shown is not None:
      again = playing.record(breakout, max_steps=6, seed=2)
      np.testing.assert_array_equal(shown[0][..., :3], again.pictures[0])
  assert sorted(one.name for one in tmp_path.iterdir()) == ['game.gif', 'game.mp4']


def test_an_mp4_holds_the_pictures(tmp_path):
  import cv2

  drawn = [np.full((64, 96, 3), (200, 40, level), np.uint8) for level in (20, 120, 220)]
  pictures.save(drawn, tmp_path / 'a.mp4', 10)
  video = cv2.VideoCapture(str(tmp_path / 'a.mp4'))
  for picture in drawn:
    there, shown = video.read()
    assert there
    np.testing.assert_allclose(shown[..., ::-1].mean((0, 1)), picture[0, 0], atol=8)
  assert not video.read()[0]


def test_observations_are_drawn_by_their_kind():
  grey = pictures.of_observation(np.array([[0, 128], [255, 1]], np.uint8))
  np.testing.assert_array_equal(grey[..., 0], [[0, 128], [255, 1]])
  binary = np.zeros((2, 2, 4), np.uint8)
  binary[0, 0, 0] = binary[0, 1, 1] = 1
  drawn = pictures.of_observation(binary)
  assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 3  # Two channels and the ground.
  with pytest.raises(ValueError, match=r'shape \(4,\) are not images'):
    pictures.of_observation(np.zeros(4))


def test_an_exported_policy_runs_without_this_package(breakout, tmp_path):
  path = tmp_path / 'policy.jaxexport'
  assert exporting.main([str(breakout.base_dir), f'--output={path}']) == 0
  states = np.random.default_rng(0).integers(0, 2, (5, 1, 10, 10, 4), np.uint8)
  np.save(tmp_path / 'states.npy', states)
  code = (
    'import sys, jax.export, numpy as np; '
    f'call = jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read())).call; '
    f'actions, q_values = call(np.load({str(tmp_path / "states.npy")!r})); '
    'assert "implicit_rl" not in sys.modules; '
    f'np.savez({str(tmp_path / "out.npz")!r}, actions=actions, q_values=q_values)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
  with np.load(tmp_path / 'out.npz') as file:
    out = dict(file)
  expected = breakout.agent.apply(breakout.params, states).q_values
  np.testing.assert_allclose(out['q_values'], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(out['actions'], np.argmax(out['q_values'], axis=-1))


@pytest.mark.exhaustive
def test_continuous_actions_are_played_and_exported(hopper):
  observation = hopper.make_environment(0).reset()
  action = hopper.policy(observation)
  assert action.shape == (3,)
  assert np.abs(action).max() <= 1
  call = jax.export.deserialize(bytearray(exporting.exported(hopper))).call
  np.testing.assert_allclose(call(observation[None, None])[0][0], action, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='SACAgent has continuous actions'):
    evaluating.evaluate(hopper, 1, epsilon=0.1)
  assert len(evaluating.evaluate(hopper, 3).returns) == 3


@pytest.mark.exhaustive
def test_the_zoo_trains_runs(tmp_path, capsys):
  output = tmp_path / 'zoo'
  assert zoo.main([f'--output={output}', '--agents', 'catch', '--iterations=1']) == 0
  assert f'implicit-rl play {output}/catch' in capsys.readouterr().out
  (row,) = jsonl.read(output / 'catch' / 'metrics.jsonl')
  assert row['eval_return'] is not None

"""Draws an environment's current moment, and writes pictures as a .gif or .mp4 file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from implicit_rl.analysis import style
from implicit_rl.environments import Capabilities

_SMALLEST = 200  # pixels; smaller pictures are enlarged to at least this height
_DARK = 26  # grey level of the background of binary channels


def of(environment: Any, able: Capabilities, observation: np.ndarray) -> np.ndarray:
  """Returns a picture of the current moment, [H, W, 3] uint8.

  Args:
    environment: in its current state.
    able: its capabilities.
    observation: the last one, drawn if the environment has no `render`.

  Raises:
    ValueError: if there is neither `render` nor an image.
  """
  picture = of_observation(observation) if able.render is None else able.render()
  factor = -(-_SMALLEST // picture.shape[0])
  return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def of_observation(observation: np.ndarray) -> np.ndarray:
  """Returns an image observation as a picture, [H, W, 3] uint8.

  Args:
    observation: [H, W] or [H, W, 1] of grey levels, [H, W, 3] of colours, or [H, W, C] of zeros and
      ones, as in MinAtar. Then each channel has a colour, and later ones cover earlier ones.

  Raises:
    ValueError: for any other shape.
  """
  seen = np.asarray(observation)
  if seen.ndim == 3 and seen.shape[-1] == 1:
    seen = seen[..., 0]
  if seen.ndim == 2:
    scale = 255 if seen.max(initial=0) <= 1 else 1
    return np.repeat((seen * scale).astype(np.uint8)[..., None], 3, axis=-1)
  if seen.ndim != 3:
    raise ValueError(
      f'Observations of shape {seen.shape} are not images, and the environment has no render() to '
      'draw them: play another run, or add render (docs/extending.md).'
    )
  if seen.shape[-1] == 3 and seen.max(initial=0) > 1:
    return seen.astype(np.uint8)
  picture = np.full((*seen.shape[:2], 3), _DARK, np.uint8)
  colours = [*style.COLOURS[:-1], '#ffffff']  # Black would not be visible.
  for channel in range(seen.shape[-1]):
    colour = colours[channel % len(colours)]
    picture[seen[..., channel] > 0] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return picture


def check_output(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of a recording.

  Raises:
    ValueError: if its name ends in neither .gif nor .mp4, or its directory does not exist.
  """
  output = pathlib.Path(path).expanduser()
  if output.suffix.lower() not in ('.gif', '.mp4'):
    raise ValueError(f'--output: {path} must end in .gif or .mp4.')
  if not output.parent.is_dir():
    raise ValueError(f'--output: no such directory: {output.parent}')
  return output


def save(pictures: Sequence[np.ndarray], path: str | os.PathLike, per_second: int) -> pathlib.Path:
  """Writes pictures of one size to a .gif or .mp4 file, completely or not at all.

  Args:
    pictures: [H, W, 3] uint8 each; at least one.
    path: the file; see `check_output`.
    per_second: pictures per second. A .gif has a resolution of hundredths of a second.

  Raises:
    ValueError: if there is no picture, or see `check_output`.
    OSError: if the file cannot be written.
  """
  output = check_output(path)
  if not len(pictures):
    raise ValueError(f'There is no picture to write to {path}.')
  unfinished = output.with_name(f'.{output.stem}.unfinished{output.suffix.lower()}')
  try:
    if output.suffix.lower() == '.gif':
      first, *rest = (Image.fromarray(picture) for picture in pictures)
      duration = max(20, round(1000 / per_second))  # milliseconds; viewers slow down below 20
      first.save(unfinished, save_all=True, append_images=rest, duration=duration, loop=0)
    else:
      _write_mp4(pictures, unfinished, per_second)
    os.replace(unfinished, output)
  finally:
    unfinished.unlink(missing_ok=True)
  return output


def _write_mp4(pictures: Sequence[np.ndarray], path: pathlib.Path, per_second: int) -> None:
  import cv2  # Comes with Dopamine; loading it takes a moment.

  height, width = pictures[0].shape[:2]
  coder = cv2.VideoWriter.fourcc(*'mp4v')
  writer = cv2.VideoWriter(str(path), coder, per_second, (width, height))
  if not writer.isOpened():
    raise OSError(f'OpenCV cannot write {path}: record a .gif instead.')
  for picture in pictures:
    writer.write(np.ascontiguousarray(picture[..., ::-1]))  # OpenCV's order is blue, green, red.
  writer.release()

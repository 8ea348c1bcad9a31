"""A Chrome or Chromium for the tests that look at a page."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest


def chromium():
  """The path of a browser; the test fails where there is none."""
  names = [os.environ.get('CHROMIUM', ''), 'chromium', 'chromium-browser', 'google-chrome']
  found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
  if found is None:
    pytest.fail(
      'This test needs a browser: apt-get install chromium, or set CHROMIUM to the path of one.'
    )
  return found


def dump(address, *options):
  """The document behind an address once its scripts have run; nothing is loaded from elsewhere."""
  with tempfile.TemporaryDirectory() as profile:
    command = [chromium(), '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom']
    command += ['--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1']
    command += [f'--user-data-dir={pathlib.Path(profile) / "profile"}', *options, address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout

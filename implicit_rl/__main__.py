"""`python -m implicit_rl` is the console command `implicit-rl`."""

import sys

from implicit_rl import cli

if __name__ == '__main__':
  sys.exit(cli.main())

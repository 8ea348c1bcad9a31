"""Trains an agent: python run_experiment.py --base_dir=runs/first --gin_files=GIN_FILE."""

from absl import app, flags

from implicit_rl import train

flags.adopt_module_key_flags(train)  # For --help.
main = train.run

if __name__ == '__main__':
  app.run(main)

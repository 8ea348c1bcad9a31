"""Every remedy in every regime with the same seeds: runs, rows, and the page drawn from them.

python -m implicit_rl.leaderboard --spec=sweeps/leaderboard.yaml --tune   # choose strengths
python -m implicit_rl.leaderboard --spec=sweeps/leaderboard.yaml          # do the runs
python -m implicit_rl.leaderboard --draw                                  # tables and page
"""

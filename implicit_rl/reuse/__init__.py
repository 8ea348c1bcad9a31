"""Reuses trained runs: plays and evaluates them, exports their policies, trains a small zoo.

implicit-rl evaluate RUN
implicit-rl play RUN --output=game.gif
implicit-rl export RUN --output=policy.jaxexport
implicit-rl zoo --output=runs/zoo
"""

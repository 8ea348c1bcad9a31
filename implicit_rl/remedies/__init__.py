"""Remedies against rank collapse, plasticity loss and diverging values; each is one gin line.

    Remedies.mine = @my_file.MyRemedy()   # binds it under a name of your choice
    Remedies.mine = None                  # a later file or binding removes it

`base` defines the class `Remedy`. This package imports neither TensorFlow nor Dopamine.
"""

from implicit_rl.remedies.base import LossTerm, PeriodicRemedy, Remedy, bound_remedies

__all__ = ['LossTerm', 'PeriodicRemedy', 'Remedy', 'bound_remedies']

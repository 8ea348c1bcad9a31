"""Diagnostics: measures of representation, plasticity and values; each is one gin line.

    Diagnostics.mine = @my_file.MyMeasure()   # binds it under a name of your choice
    Diagnostics.mine = None                   # a later file or binding removes it

`base` defines the class `Diagnostic`, `measurements` lists the diagnostics of every run, and
`alarms` those problems that a run reports. The measuring functions are pure and can be used on
their own. This package imports neither TensorFlow nor Dopamine.
"""

from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.diagnostics.measurements import Measurements, bound_diagnostics

__all__ = ['Diagnostic', 'Measurements', 'bound_diagnostics']

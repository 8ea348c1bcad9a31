"""Diagnostics: measures of representation, plasticity and values; each is one gin line.

    Diagnostics.mine = @my_file.MyMeasure()   # binds it under a name of your choice
    Diagnostics.mine = None                   # a later file or binding takes it out again

`base` says what a diagnostic is, `measurements` lists those that every run takes, `alarms` what a
person is told of. The functions that measure are pure and may be used alone. This package imports
neither TensorFlow nor Dopamine.
"""

from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.diagnostics.measurements import Measurements, bound_diagnostics

__all__ = ['Diagnostic', 'Measurements', 'bound_diagnostics']

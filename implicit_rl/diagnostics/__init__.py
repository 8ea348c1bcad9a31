"""Diagnostics: measures of representation, plasticity and values; each is one gin line.

    Diagnostics.mine = @my_file.MyMeasure()   # binds it under a name of your choice
    Diagnostics.mine = None                   # a later file or binding takes it out again

`base` says what a diagnostic is. This package imports neither TensorFlow nor Dopamine.
"""

from implicit_rl.diagnostics.base import Diagnostic, bound_diagnostics

__all__ = ['Diagnostic', 'bound_diagnostics']

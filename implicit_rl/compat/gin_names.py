"""Names that gin knows: lists them with their parameters, and suggests one for a mistyped name."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import gin
from gin import config as gin_config

import implicit_rl

_OTHERS = ('gin.', 'dopamine.', 'run_experiment.')  # Modules whose names are listed last.
# Preferred owner if several have the parameter.
_SHARED = ('Agent', 'Learner', 'OfflineRunner', 'OnlineRunner')


class Configurable(NamedTuple):
  """A function or class whose parameters gin can bind.

  Attributes:
    name: the shortest name that gin accepts for it.
    selector: its full name.
    function: the function or class.
    parameters: those that can be bound, with their defaults, without those that a class inherits.
  """

  name: str
  selector: str
  function: Any
  parameters: dict[str, Any]

  @property
  def ours(self) -> bool:
    """Whether it is this project's, or a library's that the project's files use."""
    return is_ours(self.selector)

  @property
  def summary(self) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(self.function) or '').partition('\n')[0]


def is_ours(selector: str) -> bool:
  """Whether a configurable is this project's or a user's, not Dopamine's or gin's."""
  return not selector.startswith(_OTHERS)


def configurables() -> list[Configurable]:
  """Returns the registered configurables by name, this project's first."""
  found = []
  for selector, info in gin_config._REGISTRY.items():  # gin has no public list of them.
    name = gin_config._REGISTRY.minimal_selector(selector)
    hidden = {*(info.denylist or ()), 'self', 'parent', 'name'}  # The last two are Flax's.
    signature = inspect.Signature() if _inherits(info.wrapped) else inspect.signature(info.wrapped)
    # The program passes those that our own require without gin.REQUIRED, such as the loss.
    handed = selector.startswith(f'{implicit_rl.__name__}.')
    parameters = {
      key: parameter.default
      for key, parameter in signature.parameters.items()
      if key not in hidden
      and (not info.allowlist or key in info.allowlist)
      and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
      and not (handed and parameter.default is parameter.empty)
    }
    found.append(Configurable(name, selector, info.wrapped, parameters))
  return sorted(found, key=lambda one: (not one.ours, one.name.lower()))


def _inherits(function: Any) -> bool:
  """Whether it is a class that inherits its constructor."""
  if not inspect.isclass(function):
    return False
  constructor = inspect.unwrap(function.__init__)  # gin replaces the constructor in the class.
  return constructor.__qualname__ != f'{function.__qualname__}.__init__'


# --- the list -------------------------------------------------------------------------------------


def listing(wanted: Iterable[str] = ()) -> str:
  """Returns the configurables as text: all in short, or the wanted ones with all parameters.

  Args:
    wanted: names; each chooses configurables that end with it or contain it.

  Raises:
    ValueError: if nothing has such a name.
  """
  known = configurables()
  wanted = list(wanted)
  if not wanted:
    optax = [one for one in known if one.selector.startswith('optax.')]
    ours = [one for one in known if one.ours and one not in optax]
    others = [one for one in known if not one.ours]
    return '\n'.join(
      [
        *map(_short, ours),
        _names("optax's, for Learner.optimizer", optax),
        _names("Dopamine's and gin's own, which the files here don't need", others),
      ]
    )
  lines: list[str] = []
  for name in wanted:
    exact = [one for one in known if name in (one.name, one.selector.rsplit('.', 1)[-1])]
    matching = exact or [one for one in known if name.lower() in one.selector.lower()]
    if not matching:
      raise ValueError(explain(f"No configurable matching '{name}'."))
    lines += map(_long, matching)
  return '\n'.join(lines)


def _names(title: str, some: Iterable[Configurable]) -> str:
  names = ', '.join(one.name for one in some)
  return f'{title}:\n' + textwrap.fill(names, 96, initial_indent='  ', subsequent_indent='  ')


def _default(value: Any) -> str:
  if value is inspect.Parameter.empty or value is gin.REQUIRED:
    return 'REQUIRED'
  if isinstance(value, type) or callable(value):
    return f'@{getattr(value, "__name__", value)}'
  return repr(value)


def _short(one: Configurable) -> str:
  parameters = ', '.join(f'{name}={_default(value)}' for name, value in one.parameters.items())
  body = textwrap.fill(f'({parameters})', 96, initial_indent='  ', subsequent_indent='   ')
  return f'{one.name}\n  {one.summary}\n' + f'{body}\n' * bool(parameters)


def _long(one: Configurable) -> str:
  described: dict[str, str] = {}
  bases = inspect.getmro(one.function) if inspect.isclass(one.function) else (one.function,)
  for base in reversed(bases):  # Base classes may describe a parameter.
    described |= _described(inspect.getdoc(base) or '')
  lines = [f'{one.name}  ({one.selector})', f'  {one.summary}']
  for name, value in one.parameters.items():
    lines.append(f'  {one.name}.{name} = {_default(value)}')
    if name in described:
      lines.append(textwrap.indent(textwrap.fill(described[name], 88), ' ' * 6))
  return '\n'.join(lines) + '\n'


def _described(docstring: str) -> Iterator[tuple[str, str]]:
  """Yields name and text of each entry in a Google docstring's arguments or attributes."""
  section = re.search(r'^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)', docstring, re.MULTILINE)
  if section:
    entries = re.split(r'^  (?=\S)', section[1], flags=re.MULTILINE)
    for entry in entries:
      name, _, text = entry.partition(':')
      yield name.strip(), ' '.join(text.split())


# --- the nearest name -----------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
  """Returns the most similar known name, if any; ignores case."""
  by_lower = {one.lower(): one for one in known}
  near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
  return by_lower[near[0]] if near else None


def did_you_mean(name: str | None) -> str:
  """' Did you mean NAME?', or '' for no name."""
  return f' Did you mean {name}?' if name else ''


def explain(message: str) -> str:
  """Returns gin's message for a wrong line, with the nearest valid name if there is one.

  Args:
    message: of an exception, on one line; a message that has a hint already is unchanged.
  """
  if 'Did you mean' in message:
    return message
  for pattern, addition in _ADDITIONS.items():
    match = re.search(pattern, message)
    if match:
      before, after = message[: match.end()], message[match.end() :]
      return f'{before}{addition(*match.groups())}{after}'.removesuffix(' ^')
  # Gin appends the whole configuration to this message.
  macro = re.match(r"No bindings specified for '(\w+)/gin.macro'", message)
  if macro:
    near = did_you_mean(nearest(macro[1], macros(), 0.5))
    return f'No gin file defines %{macro[1]}.{near}'
  return message


def one_line(error: Exception) -> str:
  """Returns an error's message with its place in a gin file, without gin's trace."""
  message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  return explain(' '.join(message.split('\n  In call to configurable')[0].split()))


def bound(configurable: Any, parameter: str, default: Any = None) -> Any:
  """Returns a parameter's value in gin, else its default; `default` without such a parameter."""
  parameters = inspect.signature(configurable).parameters
  if parameter not in parameters:
    return default
  try:
    return gin.query_parameter(f'{configurable.__name__}.{parameter}')
  except ValueError:
    return parameters[parameter].default


def selector(name: str) -> str:
  """Returns a configurable's full name, such as 'optax.adam'; '' if there is none."""
  found = gin_config._REGISTRY.get_match(name)
  return found.selector if found else ''


def named(value: Any) -> Any:
  """Returns the object of a gin reference, such as the class of `@DeviceReplay`, or the value."""
  is_reference = isinstance(value, gin_config.ConfigurableReference)
  return value.configurable.wrapped if is_reference else value


def settings() -> dict[str, str]:
  """Returns gin's current bindings by name; values as written in gin."""
  lines = gin.config_str(max_line_length=10**6).splitlines()
  pairs = (line.split(' = ', 1) for line in lines if ' = ' in line and not line.startswith('#'))
  return dict(sorted((name, value) for name, value in pairs))


def macros() -> list[str]:
  """Returns the names that the gin files parsed so far define."""
  return re.findall(r'^([A-Za-z_]\w*)\s*=', gin.config_str(), re.MULTILINE)


def _qualified(selector: str) -> str:
  return '.'.join(selector.split('.')[-2:])


def _name_hint(name: str) -> str:
  """Returns a hint for an unknown name, compared with equally many parts of each name."""
  ours = [one for one in configurables() if one.ours]
  if '.' in name:
    return did_you_mean(nearest(name, [_qualified(one.selector) for one in ours]))
  names = {one.selector.rsplit('.', 1)[-1]: one.name for one in ours}
  return did_you_mean(names.get(nearest(name, names) or ''))


def _parameter_hint(name: str, parameter: str) -> str:
  """Returns a hint for an unknown parameter: a similar one, or its owner."""
  own = [one for one in configurables() if f'.{one.selector}'.endswith(f'.{name}')]
  near = nearest(parameter, [key for one in own for key in one.parameters])
  return did_you_mean(near) or _whose_parameter_hint(parameter)


def _whose_parameter_hint(parameter: str) -> str:
  """Returns a hint for a parameter that another configurable has, under this or a similar name."""
  ours = sorted((one for one in configurables() if one.ours), key=lambda one: one.name in _SHARED)
  names = {key: f'{one.name}.{key}' for one in ours for key in one.parameters}
  return did_you_mean(names.get(nearest(parameter, names, 0.7) or ''))


def _ambiguous_hint(_: str, matches: str) -> str:
  ours = re.findall(rf"'({implicit_rl.__name__}\.[^']*)'", matches)
  return did_you_mean(_qualified(ours[0])) if ours else ''


_ADDITIONS: dict[str, Callable[..., str]] = {
  r"No configurable matching (?:reference )?'@?([\w./]+?)(?:\(\))?'\.?": _name_hint,
  r"Configurable '([^']+)' doesn't have a parameter named '(\w+)'\.?": _parameter_hint,
  r"got an unexpected keyword argument '(\w+)'": lambda name: f'.{_whose_parameter_hint(name)}',
  r"Ambiguous selector '([^']+)', matches (\[[^\]]*\])\.?\"?": _ambiguous_hint,
  r"missing 1 required positional argument: 'num_actions'": lambda: (
    '; name the agent without parentheses, as @dqn.DQNAgent.'
  ),
  r'malformed node or string': lambda: " (a class's name starts with @, text has quotes)",
}

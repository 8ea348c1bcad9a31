"""A hook of the site's build: formulas become MathML, links that leave docs/ become plain text.

Browsers draw MathML themselves, so a page needs no script and nothing from elsewhere. The sources
keep LaTeX between dollar signs, which GitHub draws too.
"""

from __future__ import annotations

import html
import posixpath
import re

from latex2mathml import converter

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_SIZE = re.compile(r'\\[Bb]igg?[lr]?(?=\\)')  # MathML's brackets fit what they hold by themselves.
_PRIME = re.compile(r'<msup><mi>(\w)</mi><mi>(&#x02032;)</mi></msup>')
_ANGLE = re.compile(r'<mi>(&#x027E[89];)</mi>')
_LINK = re.compile(r'(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)')


def on_page_markdown(markdown: str, page, **_) -> str:
  """Turns links to files outside docs/, which the site has not, into their text."""

  def replaced(match: re.Match) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    target = posixpath.normpath(posixpath.join(folder, match[2]))
    return match[1] if target.startswith('..') else match[0]

  return _LINK.sub(replaced, markdown)


def on_page_content(content: str, **_) -> str:
  """Turns the formulas that arithmatex marked into MathML."""

  def formula(match: re.Match) -> str:
    latex = _SIZE.sub('', html.unescape(match[3])).replace(r'\arg', r'\operatorname{arg}')
    mathml = converter.convert(latex, display='inline' if match[2] == '(' else 'block')
    # As an exponent of an exponent a prime would be too small to see.
    mathml = _PRIME.sub(r'<mrow><mi>\1</mi><mo lspace="0" rspace="0">\2</mo></mrow>', mathml)
    return _ANGLE.sub(r'<mo>\1</mo>', mathml)

  return _FORMULA.sub(formula, content)

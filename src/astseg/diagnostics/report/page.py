"""The page itself."""

from __future__ import annotations

import re
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape

from astseg.diagnostics.report.material import Material

__all__ = ["page"]


def page(material: Material) -> str:
    """HTML of the page, whole: styles, images and charts lie in it."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["options"] = marked_options
    source = files("astseg.diagnostics.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(report=material)


def marked_options(text: str) -> Markup:
    """Words with the options in them set as code, so that no line breaks inside one.

    >>> marked_options("try --model.slots 9 <= K")
    Markup('try <code>--model.slots 9</code> &lt;= K')
    """
    return Markup(re.sub(r"--[a-z][a-z.-]*[a-z](?: (?:\d+|simple))?", r"<code>\g<0></code>", str(escape(text))))

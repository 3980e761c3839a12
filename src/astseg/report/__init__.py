"""One self-contained HTML page about a run: nothing is fetched, pictures lie in it, it reads in dark and light.

- :mod:`astseg.report.material` collects what is shown;
- :mod:`astseg.report.charts` draws curves and histograms as SVG;
- ``page.html.jinja`` is the page.
"""

from __future__ import annotations

from astseg.report.material import Material
from astseg.report.page import page

__all__ = ["Material", "page"]

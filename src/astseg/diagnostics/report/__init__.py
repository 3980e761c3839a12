"""One self-contained HTML page about a run: nothing is fetched, pictures lie in it, it reads in dark and light.

- :mod:`astseg.diagnostics.report.material` collects what is shown;
- :mod:`astseg.diagnostics.report.charts` draws curves and histograms as SVG;
- ``page.html.jinja`` is the page.
"""

from __future__ import annotations

from astseg.diagnostics.report.material import Material
from astseg.diagnostics.report.page import page

__all__ = ["Material", "page"]

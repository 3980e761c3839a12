"""One self-contained HTML page about a run: nothing is fetched, images lie in it, it reads in dark and light.

- :mod:`astseg.diagnostics.report.make` examines a model and writes the page;
- :mod:`astseg.diagnostics.report.material` collects what is shown;
- :mod:`astseg.diagnostics.report.charts` draws curves and histograms as SVG;
- ``page.html.jinja`` is the page.
"""

from __future__ import annotations

from astseg.diagnostics.report.make import describe, make_report, save_health

__all__ = ["describe", "make_report", "save_health"]

"""Does it work? Metrics of a model on images without labels, and in plain words what is wrong and what to try.

Not in the paper. No metric here says that masks are right; together they show the usual ways in which they are wrong.
"""

from astseg.diagnostics.health.findings import Finding, early_warning, judge
from astseg.diagnostics.health.metrics import Health, examine

__all__ = ["Finding", "Health", "early_warning", "examine", "judge"]

"""Is it working? What a model does on pictures without labels, and in plain words what is wrong and what to try.

Not in the paper. No figure here says that masks are right; together they tell the usual ways in which they are wrong.
"""

from astseg.diagnostics.health.figures import Health, examine
from astseg.diagnostics.health.findings import Finding, early_warning, judge

__all__ = ["Finding", "Health", "early_warning", "examine", "judge"]

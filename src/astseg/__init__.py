"""Find, separate and redraw the objects in unlabelled images (AST-Seg).

Two doors: :class:`Segmenter` takes images and gives label maps and objects; :class:`AstSeg`, made by :func:`build`, is
the network itself. :class:`UserError` is what the library raises for a mistake of its user.

The names are fetched when they are first asked for, so that ``import astseg`` does not wait for torch.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["AstSeg", "Segmenter", "UserError", "__version__", "build"]

if TYPE_CHECKING:
    from astseg.errors import UserError
    from astseg.inference.segmenter import Segmenter
    from astseg.model.astseg import AstSeg, build
else:
    # Hidden from type checkers: they would take a module with `__getattr__` to have every name there is.
    _HOMES = {
        "AstSeg": "astseg.model.astseg",
        "Segmenter": "astseg.inference.segmenter",
        "UserError": "astseg.errors",
        "build": "astseg.model.astseg",
    }

    def __getattr__(name):
        """Import the home of a public name and return the object; AttributeError for any other name."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)

    def __dir__():
        """Names of the module, those not fetched yet included."""
        return sorted({*globals(), *__all__})

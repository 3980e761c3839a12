"""Where objects may be, before any is modelled."""

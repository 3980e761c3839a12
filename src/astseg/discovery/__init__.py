"""Where objects may be, before any is modelled: background subtraction, shadows, hues, components."""

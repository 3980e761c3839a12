"""Files of predictions: masks, tables, overlays, videos."""

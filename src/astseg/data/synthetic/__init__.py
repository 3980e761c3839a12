"""Made-up scenes with their masks."""

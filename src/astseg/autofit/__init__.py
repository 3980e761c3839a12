"""From pictures to the settings of a run: look at them, measure the machine, decide, each with its reason."""

"""The folder of a run: configuration, weights, states, card."""

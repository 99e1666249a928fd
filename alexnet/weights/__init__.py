"""Weights of other programs: read them, name the network, and turn them into a run and back."""

"""The back end of `nemo_toolkit`: its recipes, its training, its models."""

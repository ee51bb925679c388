"""Starts the ranks of a stage and gives each its task."""

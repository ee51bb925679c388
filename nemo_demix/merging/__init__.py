"""Weighted averages of component models: Eq. 6 of DeMix, straight into a live, sharded model."""

"""A NeMo recipe and a blend become a checkpoint: base, component, reference and final, by the same code."""

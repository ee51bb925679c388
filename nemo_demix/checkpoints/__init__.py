"""torch_dist checkpoints: find them, read their metadata safely, read slices of their tensors."""

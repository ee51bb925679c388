"""What every rank needs before it can work: a device, process groups, a model."""

"""Finds the data mixture for a large pretraining run by merging component models (DeMix) on Megatron-LM / NeMo."""

__version__ = "0.1.0"

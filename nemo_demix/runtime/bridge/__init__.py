"""The back end of Megatron-Bridge: its recipes, its training, its models.

Importing it imports Megatron-Bridge, and lets it be imported where there is no CUDA: see `stand_ins`.
"""

from nemo_demix.runtime.bridge.stand_ins import prepare

prepare()

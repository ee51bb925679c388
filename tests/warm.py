"""What commands import beyond what ranks need; the session's fork server imports it once."""

import importlib

for _module in """
    hydra._internal.hydra lightgbm lm_eval.tasks rich.table scipy.optimize scipy.stats sklearn.linear_model
    nemo_demix.cli nemo_demix.search.imported nemo_demix.stages.convert nemo_demix.stages.launch
    nemo_demix.stages.merge nemo_demix.stages.run nemo_demix.stages.status nemo_demix.stages.verify
""".split():
    importlib.import_module(_module)

"""Random feasible constraints, and an oracle that reads them as they are written."""

import numpy as np

from nemo_demix.config import ConstraintsConfig, GroupConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.mixture import BlendMatrix

TOKENS = {"general": 5000, "math_1": 100, "math_2": 300, "math_3": 500, "code_1": 200, "code_2": 900}
BLEND = BlendMatrix.demix(tuple(TOKENS), "general", 0.5)
BUDGET = Budget(1000, TOKENS)
PRIOR = {name: count / sum(TOKENS.values()) for name, count in TOKENS.items()}


def build(config):
    return Constraints.build(config, BLEND, BUDGET, PRIOR)


def draw_case(rng):
    """Constraints around a mixture, of all kinds, and the mixture: so they are feasible."""
    names = list(TOKENS)
    weights_C = rng.dirichlet(np.ones(6)).round(4)
    config = ConstraintsConfig()
    if rng.random() < 0.3:
        config.min_used = float(rng.choice([0.02, 0.05, 0.1]))
        weights_C[weights_C < 1.2 * config.min_used] = 0.0
    weights_C[weights_C.argmax()] += 1 - weights_C.sum()
    shares = dict(zip(names, (weights_C @ BLEND.rows_CD).tolist(), strict=True))
    margin = float(rng.choice([0.003, 0.02, 0.1]))
    for name in rng.permutation(names)[: rng.integers(0, 3)].tolist():
        config.min[name] = max(0.0, shares[name] - margin)
    for name in rng.permutation(names)[: rng.integers(0, 4)].tolist():
        config.max[name] = min(1.0, shares[name] + margin)
    for name in rng.permutation(names)[: rng.integers(0, 3)].tolist():
        config.pinned[name] = shares[name]
    if rng.random() < 0.4:
        members = rng.permutation(names)[:3].tolist()
        total = sum(shares[name] for name in members)
        config.groups["some"] = GroupConfig(members, max(0.0, total - margin), min(1.0, total + margin))
    if rng.random() < 0.4:
        most = max(share * BUDGET.num_tokens / TOKENS[name] for name, share in shares.items())
        config.max_epochs = 1.1 * most
        config.max_epochs_of["code_2"] = 1.1 * shares["code_2"] * BUDGET.num_tokens / TOKENS["code_2"] + 0.05
    if rng.random() < 0.4:
        config.max_kl = divergence(shares) + margin
    return config, weights_C


def divergence(shares):
    return sum(share * np.log(share / PRIOR[name]) for name, share in shares.items() if share > 0)


def violations(config, weights_C):
    """The largest amount by which a row breaks a constraint."""
    general = 0.5 + 0.5 * weights_C[0]
    shares = {name: 0.5 * weight for name, weight in zip(TOKENS, weights_C.tolist(), strict=True)} | {
        "general": general
    }
    broken = [0.0, -weights_C.min(), abs(weights_C.sum() - 1)]
    broken += [least - shares[name] for name, least in config.min.items()]
    broken += [shares[name] - most for name, most in config.max.items()]
    broken += [abs(shares[name] - share) for name, share in config.pinned.items()]
    for name, share in shares.items():
        epochs = config.max_epochs_of.get(name, config.max_epochs)
        broken += [] if epochs is None else [share - epochs * TOKENS[name] / BUDGET.num_tokens]
    for group in config.groups.values():
        total = sum(shares[name] for name in group.datasets)
        broken += [group.min - total, total - group.max]
    broken += [config.min_used - weight for weight in weights_C.tolist() if weight != 0]
    broken += [] if config.max_kl is None else [divergence(shares) - config.max_kl]
    return max(broken)

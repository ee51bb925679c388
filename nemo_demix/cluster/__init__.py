"""Slurm and NeMo-Run: their clients, a site's settings, jobs in order. Knows nothing of what the jobs do."""

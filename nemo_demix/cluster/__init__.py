"""Slurm: its clients, a site's settings, and jobs submitted in order. Knows nothing of what the jobs do."""

"""Candidate datasets: text or .bin/.idx prefixes in, token counts, held-out splits and benchmarks out."""

"""Tasks of lm-evaluation-harness: their names and definitions, and the documents they read without a network."""

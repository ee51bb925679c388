"""Scores of merged proxies → a predictor of every mixture's scores, and how far to trust it."""

"""Suites of requests, and the scores a model gets on them."""

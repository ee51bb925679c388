"""Predicted scores → a mixture: sampling, ranking, selection and the iterative loop."""

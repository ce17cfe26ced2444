"""Training: objectives over the states of all exits."""

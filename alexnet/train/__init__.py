"""Training: `fit` and `resume` (`start`), the loop (`loop`), the update rule of 2012 (`sgd`)."""

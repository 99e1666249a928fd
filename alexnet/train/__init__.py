"""Training: the loop (`loop`), the update rule of 2012 (`sgd`) and the metrics (`metrics`)."""

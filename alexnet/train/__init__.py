"""Training: the 2012 rule (`sgd`), runs on disk (`checkpoint`), and one visible loop (`loop`)."""

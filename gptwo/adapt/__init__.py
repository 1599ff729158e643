"""What is tuned: which parameters of a network move."""

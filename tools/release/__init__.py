"""What is given to others: the model-zoo zip of a bundle."""

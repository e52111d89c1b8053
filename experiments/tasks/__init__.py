"""What is learned: a configuration comes in; data, a model, its loss and its metrics go out."""

"""Tables of images and labels: to weights, to scores, and from images to probabilities."""

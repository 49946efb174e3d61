"""Image data: read a source, split it, fit the images to a network, and make batches."""

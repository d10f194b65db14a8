"""Training of networks that classify each pixel: from patch labels and pixel labels together."""

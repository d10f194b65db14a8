"""Networks that say of each label by itself whether it is there: losses, augmentation, training, scores."""

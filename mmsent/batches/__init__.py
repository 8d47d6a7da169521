"""Samples -> batches on a device: fed, augmented, ordered; and a split as a torch data set."""

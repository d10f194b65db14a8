"""Finished maps: opened, sampled, judged by labelled points, compared with each other."""

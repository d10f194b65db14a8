"""What ``landuse train``, ``evaluate`` and ``data`` do: data sets, training, scores and their figures."""

"""Classifiers that worker processes of a cluster load by these functions' names."""

import os
import signal
import time

from landuse.model.predict_pixels import PixelPredictor


class Deadly(PixelPredictor):
    """Its process dies at the brightest ground, as if the system had taken it for its memory."""

    def pixel_scores(self, dn, bands, level):
        if dn.max() > 8_000:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixel_scores(dn, bands, level)


class Slow(PixelPredictor):
    """Takes its time, so that there is a moment in which to interfere."""

    def pixel_scores(self, dn, bands, level):
        time.sleep(0.2)
        return super().pixel_scores(dn, bands, level)


def deadly(model, device):
    return Deadly.load(model, device)


def slow(model, device):
    return Slow.load(model, device)


def other_weights(model, device):
    predictor = PixelPredictor.load(model, device)
    predictor.weights_sha256 = "1" * 64
    return predictor

"""Classifiers that worker processes of a cluster load by these functions' names."""

import os
import signal
import time

from tests.workflows.small_maps import BrightnessClassifier


class Deadly(BrightnessClassifier):
    """Its process dies at the brightest ground, as if the system had taken it for its memory."""

    def cell_probabilities(self, dn, level, cells):
        if dn.max() > 8_000:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().cell_probabilities(dn, level, cells)


class OtherWeights(BrightnessClassifier):
    weights_sha256 = "1" * 64


def brightness(model, device):
    return BrightnessClassifier(64)


def deadly(model, device):
    return Deadly(64)


def other_weights(model, device):
    return OtherWeights(64)


class Slow(BrightnessClassifier):
    """Takes its time, so that there is a moment in which to interfere."""

    def cell_probabilities(self, dn, level, cells):
        time.sleep(0.3)
        return super().cell_probabilities(dn, level, cells)


def slow(model, device):
    return Slow(64)

"""How alike two maps are, and what a map that knows nothing of the network looks like."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats

# Wang 2004: a Gaussian window of this deviation in voxels, and constants that keep flat regions stable.
_SIGMA, _K1, _K2 = 1.5, 0.01, 0.03


def constant(values: np.ndarray) -> bool:
    """Whether a map shows nothing: every value is the same but for rounding."""
    low, high = float(values.min()), float(values.max())
    return high - low <= 1e-6 * max(abs(low), abs(high))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of the absolute values, in [-1, 1]; 0 where either is constant."""
    a, b = np.abs(a).ravel(), np.abs(b).ravel()
    return 0.0 if constant(a) or constant(b) else float(stats.spearmanr(a, b).statistic)


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of the absolute values, each map scaled to [0, 1] by its own range. Wang et al., IEEE TIP 2004, eq. 13.

    Two maps that are near zero but for a few peaks are alike by this measure wherever both are near zero.
    """
    a, b = _unit(np.abs(a)), _unit(np.abs(b))
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    joint = _blur(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + _K1**2) / (mean_a**2 + mean_b**2 + _K1**2)
    return float((light * (2 * joint + _K2**2) / (var_a + var_b + _K2**2)).mean())


def edges(image: np.ndarray) -> np.ndarray:
    """An edge detector ``[C, *S] -> [*S]``: the gradient's magnitude after a Gaussian of 1 voxel, mean of channels."""
    return np.mean([ndimage.gaussian_gradient_magnitude(channel.astype(float), 1.0) for channel in image], axis=0)


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values, float)


def _blur(values: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(values.astype(float), _SIGMA, truncate=3.5))

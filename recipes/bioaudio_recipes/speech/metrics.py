"""What a classifier says of a set of clips: FID, IS, mIS and AM, with the definitions of the literature.

`log_probabilities` are those of a classifier's softmax, (clips, classes) float64; `features` those of its
penultimate layer, (clips, width). All logarithms are natural. None of the metrics draws a random number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def fid(features: Matrix, reference: Matrix) -> float:
    """Fréchet distance between two sets of features, taken as Gaussians (Heusel et al. 2017).

    Raises:
        ValueError: if a set has fewer than 2 clips, which have no covariance.
    """
    if min(len(features), len(reference)) < 2:
        raise ValueError(f"FID needs 2 clips or more, got {len(features)} and {len(reference)}")
    ours, theirs = ((x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (features, reference))
    return frechet_distance(*ours, *theirs)


def frechet_distance(
    mean: NDArray[np.float64], covariance: Matrix, other_mean: NDArray[np.float64], other_covariance: Matrix
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), also where a covariance is singular.

    The trace of (S1 S2)^(1/2) is that of (R S2 R)^(1/2) with R = S1^(1/2): symmetric, so that its eigenvalues
    are real, and where rounding makes one negative it stands for 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ other_covariance @ root)
    trace = np.trace(covariance) + np.trace(other_covariance) - 2 * np.sqrt(cross.clip(min=0)).sum()
    return max(0.0, float(((mean - other_mean) ** 2).sum() + trace))


def inception_score(log_probabilities: Matrix) -> float:
    """exp(mean over clips of KL(p || mean p)), from 1 to the number of classes (Salimans et al. 2016)."""
    marginal = np.exp(log_probabilities).mean(0)
    return float(np.exp(_entropy(marginal) - _entropies(log_probabilities).mean()))


def published_inception_score(log_probabilities: Matrix) -> float:
    """The IS of the published tables, whose code takes the entropy over clips, not over classes.

    For each class, the KL divergence of its share of every clip from equal shares; then exp of the mean over
    the classes. That is the textbook's IS where every class is equally frequent and above it elsewhere, even
    above the number of classes. (The code looks at a random half of the clips, here all are; the marginal
    that it takes from the other half cancels.)
    """
    columns = log_probabilities - np.log(np.exp(log_probabilities).sum(0))
    return float(np.exp(np.mean(np.log(len(columns)) - _entropies(columns.T))))


def modified_inception_score(log_probabilities: Matrix) -> float:
    """exp(mean KL(p_i || p_j)) over all ordered pairs of different clips (Gurumurthy et al. 2017).

    The published code draws 10,000 pairs at random; this is the mean that they scatter around.
    """
    clips = len(log_probabilities)
    if clips < 2:
        raise ValueError(f"mIS needs 2 clips or more, got {clips}")
    entropies = _entropies(log_probabilities)
    total = _product(np.exp(log_probabilities).sum(0), log_probabilities.sum(0)).sum()
    cross = (total + entropies.sum()) / (clips * (clips - 1))  # the pairs of a clip with itself left out
    return float(np.exp(-entropies.mean() - cross))


def am_score(log_probabilities: Matrix, train_log_probabilities: Matrix) -> float:
    """KL(mean p of train || mean p) + mean entropy of p: the less, the better (Zhou et al. 2018)."""
    train, ours = (np.exp(x).mean(0) for x in (train_log_probabilities, log_probabilities))
    with np.errstate(divide="ignore"):
        divergence = -_entropy(train) - _product(train, np.log(ours)).sum()
    return float(max(0.0, divergence) + _entropies(log_probabilities).mean())


def _entropies(logs: Matrix) -> NDArray[np.float64]:
    """Entropy of each row of log-probabilities."""
    return -_product(np.exp(logs), logs).sum(1)


def _entropy(probabilities: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore"):
        return float(-_product(probabilities, np.log(probabilities)).sum())


def _product(probabilities: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """p log q, which is 0 where p is."""
    return np.multiply(probabilities, logs, out=np.zeros_like(probabilities), where=probabilities > 0)

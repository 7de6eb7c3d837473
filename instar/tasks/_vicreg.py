"""VICReg's three terms. Bardes, Ponce and LeCun 2022, https://arxiv.org/abs/2105.04906, eq. 1 to 6.

Legend: N rows, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional


def invariance(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """The mean squared distance of the two views, over rows and features."""
    return functional.mse_loss(left_ND, right_ND)


def variance(feature_ND: Tensor, *, eps: float = 1e-4) -> Tensor:
    """How far the deviation of features is below 1, averaged over them; eq. 1 and 2. Unbiased: over N - 1."""
    return functional.relu(1 - (feature_ND.var(0) + eps).sqrt()).mean()


def covariance(feature_ND: Tensor) -> Tensor:
    """The sum of the squared covariances of different features, divided by D; eq. 3 and 4.

    The sum over all D x D entries of (Z'Z)^2 is that over all N x N of (ZZ')^2, because both are the trace of Z'ZZ'Z.
    The smaller product is formed: N = 64 and D = 8192 take 64 x 64 inner products instead of 8192 x 8192.
    """
    N, D = feature_ND.shape
    centred_ND = feature_ND - feature_ND.mean(0)
    if D <= N:
        covariance_DD = centred_ND.T @ centred_ND / (N - 1)
        # Squares of the diagonal are taken off before the sum: they are the larger part of it.
        return (covariance_DD - torch.diag(covariance_DD.diagonal())).square().sum() / D
    gram_NN = centred_ND @ centred_ND.T / (N - 1)
    return (gram_NN.square().sum() - centred_ND.var(0).square().sum()) / D


def terms(left_ND: Tensor, right_ND: Tensor) -> dict[str, Tensor]:
    """Invariance, variance and covariance of two branches, as the reference adds them up: half of both variances."""
    return {
        "invariance": invariance(left_ND, right_ND),
        "variance": (variance(left_ND) + variance(right_ND)) / 2,
        "covariance": covariance(left_ND) + covariance(right_ND),
    }

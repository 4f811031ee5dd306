"""Functions as users have them."""

import numpy as np
import torch

NOT_A_FUNCTION = 3


def double(u):
    assert u.dtype == np.float64
    assert u.shape == (2, 2, 2)
    u *= 2  # in place: it is the function's own
    return u


def driven(u, f):
    return np.flip(2 * u + f, axis=0)[::-1]  # a view with negative strides


def batch(u):
    assert u.ndim == 4
    return [2 * one for one in u]


def in_torch(u):
    assert isinstance(u, torch.Tensor)
    u.mul_(2)
    return u


def in_torch_batched(u):
    assert u.dtype == torch.float32
    return 2 * u


def fails_at_13(u):
    if u[0, 0, 0] == 13:
        raise ValueError("no convergence\nat all")
    return 2 * u


def nan_at_13(u):
    return np.where(u == 13, np.nan, 2 * u)


def wrong_shape(u):
    return u[0]


def whole(u):
    return (100 * u).astype(int)


def compared(u):
    return u > 0


def masked_at_13(u):
    return [np.ma.masked_equal(2 * one, 26.0) for one in u]


def masked_whole(u):
    return np.ma.masked_equal(u.astype(int), 13)


def whole_in_torch(u):
    return u.long()


def nothing(u):
    return None

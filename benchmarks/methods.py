"""Relatives of Grad-CAM that were tried; `multicam.explain` takes them as `method`."""

from __future__ import annotations

from torch import Tensor

from multicam.weighting import grad_cam


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradients are not averaged over places: Draelos and Carin, arXiv 2011.08891."""
    return (activations * gradients).sum(dim=1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Only positive gradients, not averaged: Jiang et al., IEEE TIP 2021."""
    return (activations * gradients.relu()).sum(dim=1)


def positive_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM from positive gradients alone."""
    return grad_cam(activations, gradients.relu())

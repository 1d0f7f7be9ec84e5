"""Losses that ask for a margin between the logit of the label and all others.

A network whose Lipschitz constant in the 2-norm is L keeps its prediction within epsilon if the margin is at least
sqrt(2) * epsilon * L, because the difference of two logits changes at most sqrt(2) times as fast as the logits.

hinge: the multi-class hinge loss of networks with orthogonal layers, as in Anil, Lucas and Grosse, ICML 2019, arXiv
1811.05381, in Li et al., NeurIPS 2019, arXiv 1911.00937, and as `margin_loss` in locuslab/orthogonal-convolutions at
543b0aad. It is torch's `multi_margin_loss`, with a margin that may have a gradient.

offset_cross_entropy: the cross-entropy of logits from which the margin has been taken at the label. With temperature 1
and the bound of the network as L that is Lipschitz-margin training, Tsuzuku, Sato and Sugiyama, NeurIPS 2018, arXiv
1802.04034; with L = 1 and a temperature it is the loss of Prach and Lampert, ECCV 2022, arXiv 2208.03160, section 4.3.
A network whose bound is large when its training starts would be shrunk to a constant by such a margin: the radius may
grow over the first epochs, as in Leino, Wang and Fredrikson, ICML 2021, arXiv 2102.08452.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def hinge(logits: Tensor, labels: Tensor, margin: Tensor | float) -> Tensor:
    """The mean, 0-d, over images and classes of how much each other logit is above the label's minus the margin.

    logits: (N, classes). labels: (N,). The label's own term is zero.
    """
    own = logits.gather(1, labels[:, None])
    terms = (margin - own + logits).clamp_min(0).scatter(1, labels[:, None], 0.0)
    return terms.mean()


def offset_cross_entropy(
    logits: Tensor, labels: Tensor, margin: Tensor | float, temperature: float, label_smoothing: float
) -> Tensor:
    """The cross-entropy, 0-d, of (logits - margin at the label) / temperature, times the temperature.

    logits: (N, classes). labels: (N,).
    """
    offset = functional.one_hot(labels, logits.shape[1]).to(logits.dtype) * margin
    return temperature * functional.cross_entropy(
        (logits - offset) / temperature, labels, label_smoothing=label_smoothing
    )

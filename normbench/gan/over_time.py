"""How the samples of a GAN get better while it trains: the KID of those that its history keeps.

The KID has no bias, so that the few samples of a time give its value up to their spread; their FID would be far too
high (Binkowski et al., arXiv 1801.01401, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.gan.features import Extractor
from normbench.gan.scores.kernel import mean_kernel

MOST = 2000  # real images that are compared: more change little beside the spread of the samples


@torch.inference_mode()
def kids(extractor: Extractor, real: Tensor, samples: Tensor) -> list[float | None]:
    """Returns the KID of the samples of each time: unbiased estimates from all of them, so that some are below 0.

    real: features (M, d) of real images, of which the first `MOST` are taken. samples: uint8 (times, N, C, H, W). None
    where N or M is 1, and where features are not finite.
    """
    real = real[:MOST].double()
    if min(len(real), samples.shape[1]) < 2:
        return [None] * len(samples)
    within = mean_kernel(real, real, same=True)
    found: list[float | None] = []
    for each in samples:
        blocks = [extractor(block)[0] for block in each.to(real.device).split(extractor.batch)]
        fake = torch.cat(blocks).double()
        value = mean_kernel(fake, fake, same=True) + within - 2 * mean_kernel(fake, real)
        found.append(value.item() if value.isfinite() else None)
    return found

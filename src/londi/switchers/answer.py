"""What DEEPTHINK would do: learned beside the values, from the steps on which it was asked.

Where the actions are a closed set of K, a network says which of them DEEPTHINK would take, and it acts otherwise than
QUICK with the probability of all but QUICK's: K classes tell more of an answer than whether it was the same, and what
leads to an action is the same whatever QUICK says. Where actions are free text, or what QUICK says is hidden, the
network says only whether it would act otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from londi.switchers.base import FAILED
from londi.switchers.reader import NetworkShape, Phi


def width(shape: NetworkShape) -> int:
    """Return how many logits K say what DEEPTHINK would do."""
    return max(1, shape.answers)


def differs(logits: Tensor, phi: Phi, shape: NetworkShape) -> Tensor:
    """Return the probability (B,) that DEEPTHINK acts otherwise, the mean of M readers' logits (B, M, K)."""
    if not shape.answers:
        return logits[..., 0].sigmoid().mean(-1)
    quick = phi.dense[:, shape.said : shape.said + shape.answers]
    return 1 - (logits.softmax(-1) * quick[:, None]).sum(-1).mean(-1)


def teaches(called: NDArray[np.bool_], answer: NDArray[np.int16], shape: NetworkShape) -> NDArray[np.bool_]:
    """Return in which of B states an answer is known that teaches something: of a closed set, or any that came."""
    return called & (answer >= 0 if shape.answers else answer != FAILED)


def loss(logits: Tensor, agreed: Tensor, answer: Tensor) -> Tensor:
    """Return the cross-entropy of logits (b, M, K) on b states in which DEEPTHINK answered; 0 for none.

    `agreed` (b,) says whether it did what QUICK would have done, `answer` (b,) which of the K actions it took.
    """
    if not len(logits):
        return logits.sum()
    if logits.shape[-1] > 1:
        return cross_entropy(logits.flatten(0, 1), answer.long().repeat_interleave(logits.shape[1]))
    truth = (~agreed).float()[:, None].expand_as(logits[..., 0])
    return binary_cross_entropy_with_logits(logits[..., 0], truth)

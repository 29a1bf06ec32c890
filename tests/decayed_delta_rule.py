"""The delta rule with a decay, from the room's own delta rule: step by step, each on what the decay leaves of the state."""

import torch

from attncourse.linear_attention import delta_rule_attention


def decayed_delta_rule(q, k, v, beta, *, decay=None, state=None):
    """Return what `delta_rule_attention` does, with a decay (b, g, s, 1) or (b, g, s, dk):
    what a step leaves of the past.
    """
    if decay is None:
        return delta_rule_attention(q, k, v, beta, state=state)
    state = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3]) if state is None else state
    rows = []
    for j in range(k.shape[2]):
        now = slice(j, j + 1)
        left = decay[:, :, j, :, None] * state
        out, state = delta_rule_attention(q[:, :, now], k[:, :, now], v[:, :, now], beta[:, :, now], state=left)
        rows.append(out)
    return torch.cat(rows, dim=2), state

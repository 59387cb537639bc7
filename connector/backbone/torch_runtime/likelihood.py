"""How likely a model finds tokens: its LM head, without an array of [rows, vocabulary]."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Likelihood"]

# Tokens of the vocabulary whose logits are computed at once: they stay in the processor's cache.
_PART = 4096
# Rows of one product: always so many, filled up. Libraries sum in another order for other numbers of rows.
_ROWS = 64


class Likelihood:
    """The LM head of a model. Rows do not change each other's numbers.

    Args:
        weight: [vocabulary, hidden].
        scale: logits are multiplied by it.
        softcap: of the logits; None: none.
    """

    def __init__(self, weight: torch.Tensor, scale: float = 1.0, softcap: float | None = None) -> None:
        self._weight, self._scale, self._softcap = weight, scale, softcap

    @classmethod
    def of_model(cls, model: Any) -> Likelihood:
        """Of a transformers model for causal language modelling.

        Scales and caps are those of Gemma 2 (``final_logit_softcapping``), Granite (``logits_scaling``, a divisor)
        and Cohere (``logit_scale``).
        """
        config = model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        return cls(
            model.get_output_embeddings().weight.detach(), scale, getattr(config, "final_logit_softcapping", None)
        )

    def log_probabilities(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of one token a row.

        Args:
            hidden: [rows, hidden], behind the model's last norm.
            targets: int64 [rows], token ids.

        Returns:
            float32 [rows].
        """
        count = len(hidden)
        filled = torch.nn.functional.pad(hidden, (0, 0, 0, -count % _ROWS))
        highest = torch.full((len(filled),), float("-inf"), device=hidden.device)
        total = torch.zeros(len(filled), device=hidden.device)
        for part in torch.split(self._weight, _PART):
            logits = self._logits(filled, part)
            above = torch.maximum(highest, logits.amax(dim=1))
            total = total * torch.exp(highest - above) + torch.exp(logits - above[:, None]).sum(dim=1)
            highest = above
        own = self._shaped((hidden.float() * self._weight[targets].float()).sum(dim=1))
        return own - highest[:count] - torch.log(total[:count])

    def _logits(self, filled: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        products = [torch.nn.functional.linear(rows, part) for rows in torch.split(filled, _ROWS)]
        return self._shaped(torch.cat(products).float() if products else filled.new_zeros(0, len(part)).float())

    def _shaped(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits * self._scale if self._scale != 1.0 else logits
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

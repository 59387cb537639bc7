"""What this machine's products must be able to do: a test is skipped for the machine's sake, never for a defect's."""

from __future__ import annotations

import pytest
import torch

from connector.backbone.torch_runtime.cpu.linear import pack_linears


def pack(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Pack a model's linear layers; the test is skipped on a CPU without oneDNN, or without its bfloat16."""
    if not torch.backends.mkldnn.is_available():
        assert not pack_linears(model), "what is packed needs oneDNN"
        pytest.skip("this torch has no oneDNN")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not pack_linears(model), "what is packed needs bfloat16 of oneDNN"
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    assert pack_linears(model), "oneDNN is there, and weights are not packed"


def has_wide_products() -> bool:
    """Whether tokens are known to go through a product together here: CPUs with AVX-512."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def has_amx() -> bool:
    """Whether products are done by AMX, whose sums depend on the number of tokens."""
    return bool(torch.cpu._is_amx_tile_supported())

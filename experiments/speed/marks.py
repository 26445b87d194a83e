"""Hardware requirements of benchmarks, which are skipped with a reason if these are not met."""

import pytest
import torch

from exiflang.utils.hardware import has_fast_bf16

bf16 = pytest.mark.skipif(not has_fast_bf16("cpu"), reason="this processor does not multiply in bfloat16")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

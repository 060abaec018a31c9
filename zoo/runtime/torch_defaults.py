"""torch's settings of the calling program, which must not change numbers of this package."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def torch_defaults(*, gradients: bool = False) -> Iterator[None]:
    """Compute in the block, or in a decorated function, as torch does by default.

    Tensors without a type are float32 on the CPU, and there is no autocast but the block's own, whatever the caller has
    set. The caller's settings are back when the block ends.

    Args:
        gradients: also record gradients, and make tensors that can record them later.
    """
    if "torch" not in sys.modules:  # its settings are unchanged, and a command may need no torch at all
        yield
        return
    import torch

    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        # Only where it is needed: torch checks every call of a function inside a device context.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if gradients:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        yield

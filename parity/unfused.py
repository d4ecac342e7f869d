"""The functions of `stc_lmms.ops.rows` without fused kernels, for comparisons."""

from contextlib import AbstractContextManager
from unittest import mock

from stc_lmms.ops import rows


def unfused() -> AbstractContextManager[object]:
    """Context in which PyTorch computes everything, on every device."""
    return mock.patch.object(rows, "kernels", lambda *_: rows.Kernels(None, "torch (as requested)"))

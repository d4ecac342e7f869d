"""STC (arXiv 2512.00891): STC-Cacher in the tower and STC-Pruner before the prefill."""

from stc_lmms.methods.spec import MethodSpec
from stc_lmms.methods.stc_cacher import STCCacher
from stc_lmms.methods.stc_pruner import STCPruner

SPECS = (
    MethodSpec(
        "stc",
        "STC-Cacher in the tower and STC-Pruner before the prefill",
        tower=STCCacher,
        token=STCPruner,
        paper="2512.00891",
    ),
)

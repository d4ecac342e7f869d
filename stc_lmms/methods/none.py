"""No compression: every token of every frame is encoded and kept."""

from stc_lmms.methods.spec import MethodSpec

SPECS = (MethodSpec("none", "dense: every token of every frame"),)

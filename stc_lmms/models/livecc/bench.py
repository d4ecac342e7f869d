"""The static card of LiveCC-7B, whose tower is the one of Qwen2-VL-7B."""

from stc_lmms.models.qwen_vl.bench import TowerCard

ENTRY = TowerCard("livecc")

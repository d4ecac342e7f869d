"""The demo model: a small LLaVA-OneVision that watches StreamWorld."""

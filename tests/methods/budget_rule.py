"""The budget rule of `stc_lmms.methods.budget`, as a check."""


def holds(kind, kept, budget, dense):
    if kind == "per frame":
        return all(count == budget for count in kept)
    if kind == "on average":
        return abs(sum(kept) - len(kept) * budget) < dense
    return True

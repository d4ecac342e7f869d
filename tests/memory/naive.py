"""ReKV and recent-N written down as plainly as possible: block by block, dense masks, nothing cached rotated.

Follows the published description step by step, also where `stc_lmms.memory` takes another way to the same
result. Shapes: H query heads, G key heads, S keys, d head width.
"""

import torch


def turn(x_HSd, position_ids_S, inv_freq):
    angle = torch.as_tensor(position_ids_S).double()[:, None] * inv_freq.double()
    angle = torch.cat((angle, angle), -1)
    first, second = x_HSd.chunk(2, -1)
    return x_HSd * angle.cos() + torch.cat((-second, first), -1) * angle.sin()


def softmax_over(parts, v_GSd, repeats):
    """Joint softmax over (scores [H,L,S], mask) parts."""
    score = torch.cat([s.masked_fill(~m, -torch.inf) for s, m in parts], -1)
    return score.softmax(-1) @ v_GSd.repeat_interleave(repeats, 0)


class NaiveReKV:
    def __init__(self, llm, n_local, topk, chunk):
        self.llm, self.n_local, self.topk, self.chunk = llm, n_local, topk, chunk
        self.k = [None] * llm.layers
        self.v = [None] * llm.layers
        self.n_init, self.blocks = 0, []  # blocks: (start, stop)

    def _add(self, layer, k, v):
        for store, x in ((self.k, k), (self.v, v)):
            store[layer] = x if store[layer] is None else torch.cat((store[layer], x), 1)

    def _two_parts(self, q, k, v, scale, sink, sink_mask):
        """Local part over the last len_q + n_local keys, then the sink at one angle."""
        length, f, n = q.shape[1], self.llm.inv_freq, self.n_local
        repeats = len(q) // len(k)
        local_k, local_v = k[:, -(length + n) :], v[:, -(length + n) :]
        size = local_k.shape[1]
        places = torch.arange(size)
        rotated_q, rotated_k = (
            turn(q, places[-length:], f),
            turn(local_k, places, f).repeat_interleave(repeats, 0),
        )
        distance = places[-length:, None] - places
        parts = [(rotated_q @ rotated_k.mT * scale, (distance >= 0) & (distance < n))]
        if sink is None:
            return softmax_over(parts, local_v, repeats)
        far_q = turn(q, torch.full((length,), n - 1), f)
        parts.append((far_q @ sink[0].repeat_interleave(repeats, 0).mT * scale, sink_mask))
        return softmax_over(parts, torch.cat((local_v, sink[1]), 1), repeats)

    def block(self, embeds, init=False):
        def step(layer, q, k, v, scale):
            self._add(layer, k, v)
            every_k, every_v = self.k[layer], self.v[layer]
            end, length = every_k.shape[1], q.shape[1]
            seen = 0 if init else min(self.n_init, end - self.n_local)
            if seen <= 0:
                return self._two_parts(q, every_k, every_v, scale, None, None)
            sink = every_k[:, :seen], every_v[:, :seen]
            return self._two_parts(
                q, every_k, every_v, scale, sink, torch.ones(length, seen, dtype=torch.bool)
            )

        start = 0 if self.k[0] is None else self.k[0].shape[1]
        hidden = self.llm.hidden(embeds, None, step)
        if init:
            self.n_init = len(embeds)
        else:
            self.blocks.append((start, start + len(embeds)))
        return hidden

    def answer(self, question, prompt, steps):
        """Blocks per layer and the logits of every step."""
        past, retrieved = [None] * self.llm.layers, []

        def over(layer, q, k, v, scale, keep):
            k_all, v_all = torch.cat((past[layer][0], k), 1), torch.cat((past[layer][1], v), 1)
            total, length, n = k_all.shape[1], q.shape[1], self.n_local
            sink = mask = None
            if total > n and self.n_init:
                sink = k_all[:, : self.n_init], v_all[:, : self.n_init]
                places = torch.arange(total - length, total)
                mask = places[:, None] - torch.arange(self.n_init) >= n
            out = self._two_parts(q, k_all, v_all, scale, sink, mask)
            if keep:
                if total > n + self.n_init:
                    k_all, v_all = (torch.cat((x[:, : self.n_init], x[:, -n:]), 1) for x in (k_all, v_all))
                past[layer] = (k_all, v_all)
            return out

        def retrieve(layer, q, k, v, scale):
            repeats = len(q) // len(k)
            mean = q.mean(1).flatten()
            keys = [
                self.k[layer][:, a:b].mean(1).repeat_interleave(repeats, 0).flatten() for a, b in self.blocks
            ]
            count = len(self.blocks)
            if count <= self.topk:
                chosen = list(range(count))
            else:
                scores = [float(mean @ key) for key in keys]
                groups = [list(range(a, min(a + self.chunk, count))) for a in range(0, count, self.chunk)]
                value = [sum(scores[i] for i in g) / len(g) for g in groups]
                best = sorted(sorted(range(len(groups)), key=lambda i: -value[i])[: self.topk // self.chunk])
                chosen = [i for g in best for i in groups[g]]
            retrieved.append(chosen)
            index = torch.tensor([*range(self.n_init), *(t for i in chosen for t in range(*self.blocks[i]))])
            past[layer] = tuple(x[layer][:, index] for x in (self.k, self.v))
            return over(layer, q, k, v, scale, keep=False)

        self.llm.hidden(question, None, retrieve)
        logits, embeds = [], prompt
        for _ in range(steps):
            hidden = self.llm.hidden(embeds, None, lambda *args: over(*args, keep=True))
            logits.append(self.llm.head(hidden[-1]))
            embeds = self.llm.embed(logits[-1].argmax()[None])
        return retrieved, torch.stack(logits)


class NaiveRecent:
    """Every frame reads text and last frames at positions 0.. of its own."""

    def __init__(self, llm, recent_frames):
        self.llm, self.recent_frames = llm, recent_frames
        self.pieces = [[] for _ in range(llm.layers)]  # per layer: (k, v) of the text, then of frames

    def read(self, embeds, keep, frames):
        def step(layer, q, k, v, scale):
            past = [self.pieces[layer][0], *self.pieces[layer][1:][-frames:]] if self.pieces[layer] else []
            if not frames:
                past = past[:1]
            every_k, every_v = (torch.cat(x, 1) for x in zip(*past, (k, v)))
            places = torch.arange(every_k.shape[1])
            mask = places[-q.shape[1] :, None] >= places
            repeats, f = len(q) // len(k), self.llm.inv_freq
            score = (
                turn(q, places[-q.shape[1] :], f) @ turn(every_k, places, f).repeat_interleave(repeats, 0).mT
            )
            if keep:
                self.pieces[layer].append((k, v))
            return softmax_over([(score * scale, mask)], every_v, repeats)

        return self.llm.hidden(embeds, None, step)

    def begin(self, embeds):
        return self.read(embeds, True, 0)

    def frame(self, embeds):
        return self.read(embeds, True, self.recent_frames - 1)

    def ask(self, embeds):
        return self.llm.head(self.read(embeds, False, self.recent_frames)[-1])

"""Decoders whose mixers are written out as people write them, loops and all: no function of theirs
has a name or arguments of a kernel. Each mixer notes what its scan was called with."""

from __future__ import annotations

import weakref

import torch
import torch.nn.functional as F
from plain_decoders import DK, D, FusedAttention, H, Model, Residual, T, by_kernel, two_layers
from torch import nn

# Calls of the scans, for tests that count them: name -> number.
N_SCANS: dict[str, int] = {}
# Mixer -> what its scan was called with first. Attributes of modules are put back by a capture.
SEEN: weakref.WeakKeyDictionary[nn.Module, tuple[torch.Tensor, ...]] = weakref.WeakKeyDictionary()


def decayed(read, write, carried, keep):
    """S = g S + k v; y = q S, written into place token by token. [batch, position, head, ...]."""
    out = torch.zeros_like(carried)
    state = carried.new_zeros(carried.shape[0], H, DK, DK)
    for at in range(carried.shape[1]):
        state = state * keep[:, at, :, None, None]
        state = state + write[:, at, :, :, None] * carried[:, at, :, None, :]
        out[:, at] = torch.einsum("bhd,bhde->bhe", read[:, at], state)
    return out


def delta(read, write, carried, keep):
    """The delta rule: what a key held is taken out first."""
    write, outs = F.normalize(write, dim=-1), []
    state = carried.new_zeros(carried.shape[0], H, DK, DK)
    for r, w, c, b in zip(*(x.unbind(1) for x in (read, write, carried, keep)), strict=True):
        held = (state * w[..., None]).sum(-2)
        state = state + w[..., None] * (b[..., None] * (c - held))[..., None, :]
        outs.append((r[..., None] * state).sum(-2))
    return torch.stack(outs, dim=1)


def in_chunks(read, write, carried, _keep, size=5):
    """Linear attention with its sum, chunk by chunk: within one at once, between them by a state.
    Rows are probabilities."""
    read, write = F.elu(read) + 1, F.elu(write) + 1
    outs, state, total = [], 0.0, 0.0
    for start in range(0, carried.shape[1], size):
        r, w, c = (x[:, start : start + size].transpose(1, 2) for x in (read, write, carried))
        scores = (r @ w.mT).tril()
        share = scores.sum(-1, keepdim=True) + (r * total).sum(-1, keepdim=True)
        outs.append(((scores @ c + r @ (state + c.new_zeros(DK, DK))) / share).transpose(1, 2))
        state, total = state + w.mT @ c, total + w.sum(-2, keepdim=True)
    return torch.cat(outs, dim=1)


def online_softmax(read, write, carried, _keep, size=4):
    """Softmax attention as flash kernels do it: block by block, with a running maximum."""
    r, w, c = (x.transpose(1, 2) for x in (read, write, carried))
    highest = r.new_full((*r.shape[:-1], 1), -1e30)
    total, out = torch.zeros_like(highest), torch.zeros_like(c)
    place = torch.arange(r.shape[-2])
    for start in range(0, r.shape[-2], size):
        logits = r @ w[:, :, start : start + size].mT * DK**-0.5
        logits = logits.masked_fill(place[start : start + size] > place[:, None], -1e30)
        now = torch.maximum(highest, logits.amax(-1, keepdim=True))
        weights = torch.exp(logits - now) * (logits > -1e29)
        out = out * torch.exp(highest - now) + weights @ c[:, :, start : start + size]
        total = total * torch.exp(highest - now) + weights.sum(-1, keepdim=True)
        highest = now
    return (out / total).transpose(1, 2)


class Scanned(nn.Module):
    """A mixer around a scan, with a norm and a gate behind it."""

    def __init__(self, scan):
        super().__init__()
        self.scan = scan
        self.proj, self.keep = nn.Linear(D, 4 * D), nn.Linear(D, H)
        self.out = nn.Linear(D, D)

    def forward(self, x):
        read, write, carried, gate = (
            part.unflatten(-1, (H, DK)) for part in self.proj(x).chunk(4, -1)
        )
        keep = torch.sigmoid(self.keep(x))
        N_SCANS[self.scan.__name__] = N_SCANS.get(self.scan.__name__, 0) + 1
        SEEN.setdefault(self, (read, write, carried, keep))
        y = self.scan(read, write, carried, keep)
        return self.out(F.rms_norm(y, (DK,)).flatten(2) * F.silu(gate.flatten(2)))

    def mixed(self, values):
        """Return what the scan makes of other values, [row, position, head, channel]."""
        read, write, _, keep = SEEN[self]
        return self.scan(read, write, values, keep)


def short_convolution(x, kernel):
    return F.conv1d(F.pad(x, (2, 0)), kernel, groups=D)


def by_fourier(x, kernel):
    """Hyena's and S4's: a filter as long as the row."""
    size = 2 * x.shape[-1]
    decay = torch.exp(-0.2 * torch.arange(x.shape[-1]))
    spectrum = torch.fft.rfft(kernel[:, 0].repeat(1, T)[:, : x.shape[-1]] * decay, n=size)
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * spectrum, n=size)[..., : x.shape[-1]]


class Convolved(nn.Module):
    """A convolution of every channel, gated before and after."""

    def __init__(self, convolve):
        super().__init__()
        self.convolve = convolve
        self.proj, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.kernel = nn.Parameter(torch.empty(D, 1, 3))

    def forward(self, x):
        into, behind, carried = self.proj(x).mT.chunk(3, dim=-2)
        SEEN.setdefault(self, (into, behind))
        return self.out((behind * self.convolve(into * carried, self.kernel)).mT)

    def mixed(self, values):
        """Return what becomes of other values, [row, position, channel]."""
        into, behind = SEEN[self]
        if self.convolve is by_fourier:  # its map is that of the filter alone
            return self.convolve(values.mT, self.kernel).mT
        return (behind * self.convolve(into * values.mT, self.kernel)).mT


class Elementwise(nn.Module):
    """minGRU: every channel has a state and a gate of its own."""

    def __init__(self, scan=None):
        super().__init__()
        self.proj, self.out, self.scan = nn.Linear(D, 2 * D), nn.Linear(D, D), scan

    def forward(self, x):
        keep, carried = self.proj(x).chunk(2, dim=-1)
        keep = torch.sigmoid(keep)
        return self.out((self.scan or elementwise)((1 - keep) * carried, keep))


def elementwise(carried, keep):
    state, outs = torch.zeros_like(carried[:, 0]), []
    for at in range(carried.shape[1]):
        state = keep[:, at] * state + carried[:, at]
        outs.append(state)
    return torch.stack(outs, dim=1)


def rnn_scan(x, a):
    """The same under a name that says what it does."""
    return elementwise(x, a)


class Named(Elementwise):
    def forward(self, x):
        keep, carried = self.proj(x).chunk(2, dim=-1)
        keep = torch.sigmoid(keep)
        return self.out(rnn_scan((1 - keep) * carried, keep))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(D, D, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


SCANS = {scan.__name__: scan for scan in (decayed, delta, in_chunks, online_softmax)}
CONVOLUTIONS = {each.__name__: each for each in (short_convolution, by_fourier)}


def alone(make):
    """A model of such mixers alone."""
    return Model(lambda _: Residual(make(), two_layers()))


def hybrid(make):
    """Attention in the second block."""

    def block(index):
        mixer = FusedAttention(by_kernel, noted=False) if index else make()
        return Residual(mixer, two_layers())

    return Model(block)

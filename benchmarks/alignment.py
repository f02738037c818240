"""DTW of a batch against a loop of librosa, and the monotone path against plain Python, same scores.

make bench                                    # 256 pairs of 32 x 256
python benchmarks/alignment.py --pairs 1024 --results /tmp/benchmarks.json
"""

import librosa
import numpy as np
import torch

from side_by_side import begin, in_turn, options, record
from wavbrivl.gloss.alignment import dtw, monotone_path


def plain_path(S, skip=0.0):
    "What one would write first: the best monotone path of one pair, entry by entry."
    Q, T = S.shape
    V, came = np.zeros((Q + 1, T)), np.full((Q, T), -1)
    for q in range(Q):
        best, at = -np.inf, -1
        for t in range(T):
            if S[q, t] + V[q, t] > best:
                best, at = S[q, t] + V[q, t], t
            V[q + 1, t] = max(best, V[q, t] + skip)
            if best >= V[q, t] + skip:
                came[q, t] = at
    path, t = [-1] * Q, T - 1
    for q in reversed(range(Q)):
        path[q] = came[q, t]
        if path[q] >= 0:
            t = path[q]
    return path


def compare_dtw(o, cost, what: str):
    "DTW of a batch against a loop of librosa."
    arrays = list(cost.cpu().numpy())
    mask, total, _ = dtw(cost)
    theirs = [librosa.sequence.dtw(C=c) for c in arrays]
    other_paths = 0
    error = 0
    for m, n, (D, path) in zip(mask.cpu().numpy(), total.tolist(), theirs):
        other_paths += not np.array_equal(np.argwhere(m), path[::-1])
        error = max(error, abs(D[-1, -1] - n))
    ways = dict(
        ours=lambda: dtw(cost),
        theirs=lambda: [librosa.sequence.dtw(C=c) for c in arrays],
    )
    taken = in_turn(ways, o.times, o.device)
    record(
        o,
        'dtw',
        f'DTW, {what}',
        taken['ours'],
        'a loop of librosa',
        taken['theirs'],
        error=float(error),
        other_paths=other_paths,
    )


def compare_monotone_path(o, scores, what: str):
    "The monotone path of a batch against plain Python, whose time is scaled up."
    few = min(o.plain, o.pairs)
    rows = [s.double().cpu().numpy() for s in scores[:few]]
    paths = monotone_path(scores, 0.0)[0][:few].tolist()
    other_paths = sum(plain_path(s) != path for s, path in zip(rows, paths))
    ways = dict(
        ours=lambda: monotone_path(scores, 0.0),
        theirs=lambda: [plain_path(s) for s in rows],
    )
    taken = in_turn(ways, o.times, o.device)
    record(
        o,
        'monotone_path',
        f'Monotone path, {what}',
        taken['ours'],
        'plain Python',
        [t * o.pairs / few for t in taken['theirs']],
        other_paths=other_paths,
    )


def main(argv=None):
    p = options(__doc__, times=9)
    p.add_argument('--pairs', type=int, default=256)
    p.add_argument('--rows', type=int, default=32)
    p.add_argument('--columns', type=int, default=256)
    p.add_argument('--plain', type=int, default=4, help='pairs for plain Python')
    o = begin(p, argv)
    if o.quick:
        o.pairs = 8
        o.columns = 64
    cost = torch.rand(o.pairs, o.rows, o.columns, device=o.device)
    what = f'{o.pairs} pairs of {o.rows} x {o.columns}'
    compare_dtw(o, cost, what)
    compare_monotone_path(o, cost - 0.5, what)


if __name__ == '__main__':
    main()

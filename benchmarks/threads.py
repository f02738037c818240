"""How idle threads wait: asleep, as the lab sets it (OMP_WAIT_POLICY=PASSIVE), against OpenMP's own way, spinning.

A spinning thread answers sooner, and takes the core from whoever else would use it. One training step of the audio
tower, on an idle machine and beside a process that keeps every core busy.

make bench
python benchmarks/threads.py --times 5
"""

import os, subprocess, sys
from statistics import median
from time import perf_counter

import torch

from side_by_side import begin, options, record
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.params import AudioParams

# libgomp spins 300,000 times where nothing else is said
WAYS = dict(ours={'OMP_WAIT_POLICY': 'PASSIVE'}, theirs={'GOMP_SPINCOUNT': '300000'})
OMP = ('OMP_', 'GOMP_', 'KMP_')


def time_step(steps: int, clips: int) -> float:
    "Median seconds of a training step on `clips` sounds of 2 s."
    torch.manual_seed(0)
    tower = AudioTower(AudioParams(), 256, 2.0).train()
    waves = 0.1 * torch.randn(clips, 32_000)
    goal = torch.randn(clips, 256)
    seconds = []
    for _ in range(steps + 1):
        began = perf_counter()
        torch.nn.functional.mse_loss(tower(waves), goal).backward()
        seconds.append(perf_counter() - began)
    return median(seconds[1:])


def keep_busy():
    "Multiply matrices until killed."
    x = torch.randn(512, 512)
    while True:
        x @ x


def start(o, task: str, way: dict, **more):
    "This file in a process of its own, whose OpenMP waits as `way` says."
    clean = {k: v for k, v in os.environ.items() if not k.startswith(OMP)}
    words = [sys.executable, __file__, '--task', task, '--threads', str(o.threads)]
    words += ['--quick'] if o.quick else []
    return subprocess.Popen(words, env=clean | way, text=True, **more)


def measure(o, way: dict) -> float:
    "Seconds of a step in a process of its own."
    process = start(o, 'step', way, stdout=subprocess.PIPE)
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(
            f'The step in a process of its own ended with {process.returncode}.'
        )
    return float(text)


def compare(o, name: str, what: str):
    "Both ways in turn, each round in the other order."
    seconds = dict(ours=[], theirs=[])
    for i in range(o.times):
        for way in list(WAYS)[:: 1 - 2 * (i % 2)]:
            seconds[way].append(measure(o, WAYS[way]))
    record(o, name, what, seconds['ours'], 'threads that spin', seconds['theirs'])


def main(argv=None):
    p = options(__doc__)
    p.add_argument(
        '--task', choices=('step', 'busy'), help='what a process of its own does'
    )
    o = begin(p, argv)
    if o.task == 'step':
        return print(time_step(2 if o.quick else 5, 2 if o.quick else 32))
    if o.task == 'busy':
        return keep_busy()
    what = 'Audio training step, 32 clips of 2 s, threads that sleep'
    compare(o, 'threads_idle', f'{what}, machine idle')
    busy = start(o, 'busy', WAYS['ours'])
    try:
        compare(o, 'threads_busy', f'{what}, another process on every core')
    finally:
        busy.kill()
        busy.wait()


if __name__ == '__main__':
    main()

"""Two trainings side by side, half of the cores each, against the same two in turn, on all cores.

`wavbrivl repro` runs stages side by side; `dvc repro` runs one at a time. The image-text model's training and the
audio tower's, at the lab's own sizes, in processes of their own; what starts them does not count.

make bench
python benchmarks/stages.py --times 5
"""

import os, subprocess, sys
from time import perf_counter

import numpy as np

from side_by_side import begin, options, record
from training_step import STEPS
from wavbrivl.core.params import OptimParams
from wavbrivl.training.loop import Trainer
from wavbrivl.training.processes import OneDevice

PAIR = dict(brivl=12, wavlm=4)  # steps of each, of about the same time together


def work(o, name: str):
    "Say that one training is ready; at every line of the input do its steps and print their seconds."
    make, n, _ = STEPS[name]
    n, steps = (4, 1) if o.quick else (n, PAIR[name])
    task, rows = make(n).train(), np.arange(n)
    fit = Trainer(task, OptimParams(batch=n), 0, None, OneDevice())
    fit.train_step(task, fit.optimizer, rows)
    print('ready', flush=True)
    for _ in sys.stdin:
        began = perf_counter()
        for _ in range(steps):
            fit.train_step(task, fit.optimizer, rows)
        print(perf_counter() - began, flush=True)


def start(o, name: str, threads: int):
    "One training in a process of its own, ready to step."
    words = [sys.executable, __file__, '--task', name, '--threads', str(threads)]
    env = os.environ | dict(OMP_WAIT_POLICY='PASSIVE', OMP_NUM_THREADS=str(threads))
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    quick = ['--quick'] if o.quick else []
    process = subprocess.Popen([*words, *quick], env=env, **pipes)
    if process.stdout.readline() != 'ready\n':
        raise SystemExit(f'The training {name} did not begin.')
    return process


def go(process):
    "Let a training take its steps."
    process.stdin.write('go\n')
    process.stdin.flush()


def beside(processes: list) -> float:
    "Seconds until all are done, begun together."
    for process in processes:
        go(process)
    return max(float(process.stdout.readline()) for process in processes)


def in_turn(processes: list) -> float:
    "Seconds of all, one after another."
    return sum(beside([process]) for process in processes)


def main(argv=None):
    p = options(__doc__)
    p.add_argument('--task', choices=PAIR, help='what a process of its own does')
    o = begin(p, argv)
    if o.device != 'cpu':
        return print('stages measures processor cores; it has no row for a GPU.')
    if o.task:
        return work(o, o.task)
    half = [start(o, name, max(1, o.threads // 2)) for name in PAIR]
    whole = [start(o, name, o.threads) for name in PAIR]
    seconds = dict(ours=[], theirs=[])
    for i in range(o.times):
        ways = dict(ours=lambda: beside(half), theirs=lambda: in_turn(whole))
        for way in list(ways)[:: 1 - 2 * (i % 2)]:
            seconds[way].append(ways[way]())
    for process in half + whole:
        process.stdin.close()
        process.wait()
    steps = ' and '.join(f'{n} steps of {name}' for name, n in PAIR.items())
    record(
        o,
        'stages',
        f'{steps}, side by side',
        seconds['ours'],
        'in turn',
        seconds['theirs'],
    )


if __name__ == '__main__':
    main()

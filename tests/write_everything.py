"""Write everything the library writes: once, on a full disk, and by writers that are killed.

`python tests/write_everything.py FOLDER` works below FOLDER and prints what each writer left;
`test_faults.py` judges it.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.api.painter import Painter
from wavbrivl.app.drawing import write_png
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core import files
from wavbrivl.core.files import BadInput, write_json
from wavbrivl.core.params import AudioParams, BrivlParams, CorpusParams, FoleyParams
from wavbrivl.core.picture_params import DiffusionParams, Params, VqganParams
from wavbrivl.data.corpus import Corpus
from wavbrivl.data.prepare import write_corpus
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.generation.guidance import write_film
from wavbrivl.generation.judge import Evaluator
from wavbrivl.image_text.brivl import BriVL
from tiny import SMALL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.training.loop import save_state
from wavbrivl.training.targets import make_targets

NAMES = 'model painter vqgan diffusion brivl judge state corpus targets png gif mp4 json'.split()
TEXT = dict(hidden=32, layers=1, heads=2, ffn=32)
AUDIO = SMALL.model_dump(exclude_unset=True)
CODEC = dict(size=16, ch=16, ch_mult=[1, 2], attention=[], channels=16, codes=32)


class Writers:
    "One writer for each name; what it writes depends on `mark`."

    def __init__(self, here):
        self.here = here
        self.tokenizer = train_tokenizer(['a dog barks', 'rain falls'], 100)
        text = TEXT | dict(vocab=self.tokenizer.get_vocab_size())
        self.brivl = BriVL(BrivlParams(image_size=32, text=text))
        self.audio = AudioTower(AudioParams(**AUDIO), self.brivl.dim, 0.5)
        self.vqgan = VQGAN(VqganParams(**CODEC))
        self.diffusion = LatentDiffusion(
            DiffusionParams(ch=[16, 32]),
            self.brivl.dim,
            self.vqgan.config.embed,
            self.vqgan.side,
        )
        self.judge = Evaluator('test_resnet', 32, ['owl', 'dog'])

    def write(self, name, lab, mark):
        "Write one thing below `lab`."
        models = (self.brivl, self.audio, self.vqgan, self.diffusion, self.judge)
        with torch.no_grad():
            for model in models:
                next(model.parameters()).fill_(mark)
        if name in ('vqgan', 'diffusion', 'brivl', 'judge'):
            getattr(self, name).save(lab / name)
        elif name in ('png', 'gif', 'mp4'):
            self.write_picture(name, lab / name, mark)
        else:
            getattr(self, f'write_{name}')(lab / name, mark)

    def write_picture(self, name, folder, mark):
        rng = np.random.default_rng(mark)
        noise = rng.integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
        if name == 'png':
            write_png(Image.fromarray(noise[0]), folder / 'x.png', 4)
        else:
            write_film(list(noise), folder / f'x.{name}')

    def write_model(self, folder, mark):
        model = WavBriVL(self.audio, self.brivl, self.tokenizer, dict(mark=mark))
        model.save_pretrained(folder)

    def write_painter(self, folder, mark):
        Painter(self.vqgan, self.diffusion).save(folder)

    def write_state(self, folder, mark):
        save_state(folder / 'state.pt', w=torch.full((9999,), float(mark)))

    def write_corpus(self, folder, mark):
        foley = FoleyParams(train=3, valid=2, test=2)
        params = CorpusParams(picture=48, seed=mark, foley=foley)
        write_corpus(params, folder, self.here, 1)

    def write_targets(self, folder, mark):
        corpus = Corpus(folder.parent / 'corpus')
        params = Params(device='cpu')
        make_targets(params, corpus, self.brivl.train(), self.tokenizer, folder)

    def write_json(self, folder, mark):
        write_json(dict(a=[mark] * 999), folder / 'x.json')


def content(folder):
    "A hash of every file of a folder; nothing where there is no folder."
    found = sorted(p for p in folder.rglob('*') if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha1(p.read_bytes()).hexdigest()
        for p in found
    }


def run_and_tell(function, pipe):
    "Write what a function gave, or how it failed, into a pipe; end the process."
    try:
        os.write(pipe, str(function()).encode()[:4000])
    except BaseException as e:
        failure = f'{isinstance(e, BadInput)} {type(e).__name__}: {e}'
        os.write(pipe, failure.encode()[:4000])
    finally:
        os._exit(0)


def apart(function):
    "Call a function in a process of its own: the signal that ended it or 0, and what it gave."
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        run_and_tell(function, w)
    os.close(w)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(r, 'rb') as pipe:
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return ended, pipe.read().decode()


def write_on_full_disk(writers, name, lab, limit):
    "Write with files no larger than `limit` bytes."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    writers.write(name, lab, 2)
    return 'written'


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(function, when):
    "The function, until it was called `when` times; then death."
    calls = []

    def call(*args):
        if len(calls) == when:
            die()
        calls.append(1)
        return function(*args)

    return call


def write_and_die(writers, name, lab, when):
    "Write, and die before the content is on disk or before the `when`-th move."
    if when == 'content':
        files.flush_to_disk = die
    elif name == 'corpus':
        Path.rename = die_at(Path.rename, when)
    else:
        os.replace = die_at(os.replace, when)
    writers.write(name, lab, 2)


def fill_disk(writers, first, limit):
    "What each writer said and left on a full disk, and what the next run made."
    lab = Path(shutil.copytree(first, writers.here / f'full-{limit}'))
    left = {}
    for name in NAMES:
        said = apart(lambda n=name: write_on_full_disk(writers, n, lab, limit))
        left[name] = dict(said=said, after=content(lab / name))
    for name in NAMES:
        writers.write(name, lab, 2)
    return left, {n: content(lab / n) for n in NAMES}


def kill(writers, first, name, when):
    "What a killed writer left, and what the next one made of it."
    lab = Path(shutil.copytree(first, writers.here / f'killed-{name}-{when}'))
    said = apart(lambda: write_and_die(writers, name, lab, when))
    after = content(lab / name) if (lab / name).exists() else None
    long_ago = time.time() - files.STALE_SECONDS - 60
    for f in lab.rglob('.*'):
        os.utime(f, times=(long_ago, long_ago))
    writers.write(name, lab, 2)
    beside = sorted(p.name for p in lab.iterdir())
    left = dict(said=said, after=after, next=content(lab / name), beside=beside)
    shutil.rmtree(lab)
    return left


def moments(name):
    "When a writer is killed."
    if name == 'corpus':
        return (0, 1)
    return ('content', 0, 1) if name in ('model', 'vqgan') else ('content', 0)


def main(here):
    torch.set_num_threads(1)
    writers = Writers(here)
    first = here / 'first'
    for name in NAMES:
        writers.write(name, first, 1)
    found = dict(first={n: content(first / n) for n in NAMES})
    for limit in (0, 700):
        left, after = fill_disk(writers, first, limit)
        found[f'full-{limit}'] = left
        found[f'full-{limit}-next'] = after
    said = apart(lambda: write_on_full_disk(writers, 'corpus', here / 'sounds', 20_000))
    found['sounds'] = dict(said=said, after=content(here / 'sounds'))
    for name in NAMES:
        for when in moments(name):
            found[f'killed-{name}-{when}'] = kill(writers, first, name, when)
    print('found ' + json.dumps(found))


if __name__ == '__main__':
    main(Path(sys.argv[1]))

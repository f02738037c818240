"The training loop: a killed training resumes to the same weights; early stopping and ties."

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import OptimParams, TrainParams
from wavbrivl.pipeline.training import stored_score
from wavbrivl.training.audio import AudioImageTask, LabelTask
from wavbrivl.training.processes import OneDevice
from wavbrivl.decoders.captioner import pad_frames
from wavbrivl.training.loop import Trainer, Task, save_history

OPTIM = OptimParams(epochs=5, batch=8, lr=0.02)

pytestmark = pytest.mark.usefixtures('one_thread')


class Line(Task):
    "A noisy line by a network with dropout; can be killed, and can be given its scores."

    items = 32

    def __init__(self, stop_at=None, scores=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.stop_at, self.scores, self.calls = stop_at, scores, 0

    def batch(self, index, rng):
        x = torch.from_numpy(index[:, None] / 32).float()
        return dict(x=x, y=x + torch.from_numpy(rng.standard_normal(x.shape)).float())

    def forward(self, x, y):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return F.mse_loss(self.net(x), y)

    def score(self):
        return dict(score=self.scores.pop(0)) if self.scores else {}


class Latest(Line):
    "Of equal scores the later epoch counts."

    def improves(self, score, best):
        return score >= best

    def best_epoch(self, scores):
        return len(scores) - 1 - int(np.argmax(scores[::-1]))


def weights(task):
    return torch.cat([p.detach().flatten() for p in task.parameters()])


@pytest.mark.parametrize('stop_at', [1, 6, 14])
@pytest.mark.parametrize('save_minutes', [0.0, 5.0])
def test_a_killed_training_ends_where_an_undisturbed_one_does(
    tmp_path, stop_at, save_minutes
):
    straight, killed, resumed = Line(), Line(stop_at), Line()
    Trainer(straight, OPTIM, 1, tmp_path / 'a').run()
    with pytest.raises(KeyboardInterrupt):
        Trainer(killed, OPTIM, 1, tmp_path / 'b', save_minutes=save_minutes).run()
    Trainer(resumed, OPTIM, 1, tmp_path / 'b').run()
    assert torch.equal(weights(straight), weights(resumed))


def test_a_state_of_other_parameters_is_not_continued(tmp_path):
    Trainer(Line(), OPTIM, 1, tmp_path).run()
    other = Trainer(Line(), OPTIM, 2, tmp_path)
    assert other.resume().epoch == 0


def test_without_a_folder_nothing_is_written_or_logged(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short, stored = Line(), Line()
    Trainer(short, OPTIM, 1, engine=OneDevice()).run()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ''
    Trainer(stored, OPTIM, 1, tmp_path / 'state').run()
    assert torch.equal(weights(short), weights(stored)), 'the engine changes nothing'


@pytest.mark.parametrize('kind, epochs, kept', [(Line, 4, 1), (Latest, 5, 2)])
def test_early_stopping_and_ties(kind, epochs, kept):
    task = kind(scores=[0.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    optim = OPTIM.model_copy(update=dict(epochs=7, patience=2))
    fit = Trainer(task, optim, 1, engine=OneDevice())
    every = []
    end_epoch = fit.end_epoch
    fit.end_epoch = lambda losses: (every.append(weights(task)), end_epoch(losses))
    fit.run()
    assert len(fit.history) == epochs and torch.equal(weights(task), every[kept])


class Kept(Line):
    "Keeps its weights as the audio tower does, by `train.keep`."

    improves = AudioImageTask.improves

    def __init__(self, keep):
        super().__init__(scores=[0.0, 1.0, 0.5, 0.2, 0.1])
        self.p = TrainParams(keep=keep)


@pytest.mark.parametrize('keep, kept', [('best', 1), ('last', 4)])
def test_the_best_or_the_last_epoch_is_kept(keep, kept):
    task = Kept(keep)
    fit = Trainer(task, OPTIM, 1, engine=OneDevice())
    every = []
    end_epoch = fit.end_epoch
    fit.end_epoch = lambda losses: (every.append(weights(task)), end_epoch(losses))
    history = fit.run()
    assert torch.equal(weights(task), every[kept])
    (said,) = stored_score(history, keep).values()
    assert said == [0.0, 1.0, 0.5, 0.2, 0.1][kept]
    assert LabelTask.improves(task, 0.1, 0.9) is (keep == 'last')


def test_a_history_counts_what_training_cost(tmp_path):
    killed, resumed = Line(stop_at=6), Line()
    with pytest.raises(KeyboardInterrupt):
        Trainer(killed, OPTIM, 1, tmp_path, save_minutes=0.0).run()
    history = Trainer(resumed, OPTIM, 1, tmp_path).run()
    assert list(history.updates) == [4, 8, 12, 16, 20]
    assert history.processor.is_monotonic_increasing
    save_history(history, tmp_path)
    written = pd.read_csv(tmp_path / 'history.csv')
    assert list(written) == ['epoch', 'loss'], 'times differ from run to run'


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    task = Line()
    task.net[2].bias.data.fill_(math.nan)
    with pytest.raises(BadInput, match='lower optim.lr'):
        Trainer(task, OPTIM, 1, tmp_path).run()


def test_padded_clips():
    x, real = pad_frames([np.ones((3, 2), np.float16), torch.ones(1, 2)])
    assert x.dtype == torch.float32 and x.sum() == 8 and real.sum(1).tolist() == [3, 1]

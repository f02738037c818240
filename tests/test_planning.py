"Plans: the counts are those of the real steps, every stage is known, what does not fit is said."

import json
import pytest
import torch
import yaml

from wavbrivl.app.cli import main
from wavbrivl.core.config import find_root
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import CorpusParams, TeacherParams
from wavbrivl.core.picture_params import VqganParams
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.pipeline.lab import small_lab
from wavbrivl.planning import sample as made
from wavbrivl.planning.costs import count_cost, find_machine, stated_machine
from wavbrivl.planning.later_stages import STAGE_PLANS
from wavbrivl.planning.plan import ELSEWHERE, describe_plan, misfits, plan_run
from wavbrivl.planning.planner import Clips, Planner, count_clips
from wavbrivl.planning.released_sizes import bare_teacher
from wavbrivl.planning.steps import (
    batch_numbers,
    count_steps,
    training_phases,
    try_steps,
)
from wavbrivl.training.processes import OneDevice

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = small_lab(tmp_path_factory.mktemp('lab'), train=dict(optim=dict(epochs=20)))
    (lab.root / 'dvc.yaml').write_text((find_root() / 'dvc.yaml').read_text())
    return lab


@pytest.fixture(scope='module')
def sample(lab, tmp_path_factory):
    return made.Sample(lab.params.corpus, tmp_path_factory.mktemp('sample'))


def test_every_stage_of_dvc_yaml_is_planned():
    stages = yaml.safe_load((find_root() / 'dvc.yaml').read_text())['stages']
    assert set(stages) == set(STAGE_PLANS)


TASKS = dict(
    brivl=lambda p, s: made.brivl_task(p, s),
    wavlm=lambda p, s: made.wavlm_task(p, s),
    train=lambda p, s: made.train_task(p, s, 16),
    vqgan=lambda p, s: made.vqgan_task(p, s),
    diffusion=lambda p, s: made.diffusion_task_of(p, VQGAN(p.vqgan), 16, 32),
    evaluator=lambda p, s: made.evaluator_task(p, s),
)


@pytest.mark.parametrize('name', TASKS)
def test_counted_without_computing_as_when_computed(lab, sample, name):
    p = lab.params
    section, make = getattr(p, name), TASKS[name]
    _, real = try_steps(make(p, sample), section.optim, section, OneDevice())
    _, counted = count_steps(make(p, sample), section.optim, section)
    assert real.flops == pytest.approx(counted.flops, rel=0.1)
    assert real.memory == pytest.approx(counted.memory, rel=0.5)


def test_a_batch_is_as_large_as_the_run_will_have_it(lab, sample):
    task = made.train_task(lab.params, sample, 16)
    optim = lab.params.train.optim.model_copy(update=dict(batch=1000))
    assert len(batch_numbers(task, optim)) == 1000


def test_phases_are_those_of_the_settings():
    p = VqganParams(quantize_start=0.2, crop_until=0.6, disc_start=0.6)
    assert [round(share, 6) for share, _ in training_phases(p)] == [0.2, 0.4, 0.4]


def test_a_large_teacher_takes_no_memory():
    teacher = bare_teacher(
        TeacherParams(kind='transformers', checkpoint='openai/clip-vit-large-patch14')
    )
    assert all(w.is_meta for w in teacher.model.parameters())
    with torch.no_grad():
        cost = count_cost(
            lambda: teacher.image(torch.zeros(1, 3, 224, 224, device='meta'))
        )
    tokens, weights = (
        257,
        sum(w.numel() for w in teacher.model.vision_model.encoder.parameters()),
    )
    attention = 24 * 4 * tokens**2 * 1024
    assert cost.flops == pytest.approx(2 * tokens * weights + attention, rel=0.02)


@pytest.mark.parametrize(
    'name, words',
    [
        (
            'nobody/has-this',
            'teacher.checkpoint: the size of .*hf download nobody/has-this',
        ),
        ('/no/such/folder', 'there is no such folder'),
    ],
)
def test_an_unknown_model_is_refused_with_the_remedy(name, words):
    with pytest.raises(BadInput, match=words):
        bare_teacher(TeacherParams(kind='transformers', checkpoint=name))


def test_how_many_clips(tmp_path):
    public = CorpusParams(reader='vggsound', source='data/x', max_clips=200)
    assert count_clips(public, tmp_path) == Clips(200, 29, 57)
    with pytest.raises(BadInput, match='--clips N'):
        count_clips(CorpusParams(reader='folder', source='x.csv'), tmp_path)
    summary = dict(params=dict(source='x.csv'), clips=dict(train=7, valid=2, test=3))
    (tmp_path / 'build/corpus').mkdir(parents=True)
    (tmp_path / 'build/corpus/summary.json').write_text(json.dumps(summary))
    assert count_clips(
        CorpusParams(reader='folder', source='x.csv'), tmp_path
    ) == Clips(7, 2, 3)


def test_what_does_not_fit_is_said_with_the_setting():
    row = dict(stage='variant@base', memory=3e9, host=9e9, disk=5e9)
    said = misfits([row], dict(memory=2e9, host=4e9, disk=1e9))
    assert [
        word in line
        for word, line in zip(
            ('language.optim.batch', 'language.pool', 'make room'), said
        )
    ] == [True] * 3


def plan_of(lab, stages, **sections):
    "A plan of some stages of a lab."
    whole = yaml.safe_load((find_root() / 'dvc.yaml').read_text())['stages']
    (lab.root / 'dvc.yaml').write_text(
        yaml.safe_dump(dict(stages={k: whole[k] for k in stages}))
    )
    return plan_run(root=lab.root, **sections)


def test_a_gpu_is_planned_without_one(tmp_path):
    plan = plan_of(
        small_lab(tmp_path), ['corpus', 'targets', 'train'], device='rtx4090'
    )
    text = describe_plan(plan)
    assert 'train@wavbrivl' in text and 'rtx4090' in text and 'Everything fits.' in text
    assert plan['total']['flops'] > 1e8 and json.dumps(plan)
    assert 'compared with what this machine has' in text and not plan['here']
    assert ELSEWHERE not in describe_plan(plan | dict(here=True))


def test_a_stage_that_nobody_knows_is_refused(tmp_path):
    lab = small_lab(tmp_path)
    (lab.root / 'dvc.yaml').write_text('stages: {polish: {}}')
    with pytest.raises(BadInput, match='polish, which the plan does not know'):
        plan_run('h200', root=lab.root)


def test_as_a_command(tmp_path, monkeypatch, capsys):
    lab = small_lab(tmp_path)
    (lab.root / 'dvc.yaml').write_text('stages: {corpus: {}}')
    monkeypatch.chdir(lab.root)
    assert main(['plan', '--device', 'h200', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['stages'][0]['stage'] == 'corpus'
    assert main(['plan', '--params', 'nowhere.yaml']) == 2
    assert 'nowhere.yaml does not exist' in capsys.readouterr().err


def test_more_work_takes_longer():
    gpu = stated_machine('h200')
    layer = torch.nn.Linear(512, 512, device='meta')
    one, four = (
        count_cost(lambda: layer(torch.zeros(n, 512, device='meta')))
        for n in (2**16, 2**18)
    )
    assert 3.9 < gpu.seconds(four) / gpu.seconds(one) < 4.1


def test_the_plan_of_a_training_is_near_the_training(
    lab, tmp_path_factory, monkeypatch
):
    "In processor seconds of one thread, which other programs do not change."
    import time

    from wavbrivl.pipeline.training import (
        prepare_corpus,
        pretrain_brivl,
        store_targets,
        train_run,
    )
    from wavbrivl.pipeline.lab import Lab
    from wavbrivl.planning.stages import plan_train

    monkeypatch.setattr(time, 'perf_counter', time.process_time)
    run = Lab('supervised', lab.root)
    for make in (prepare_corpus, pretrain_brivl, store_targets):
        make(Lab(root=lab.root))
    planner = Planner(
        find_machine('cpu', 'fp32'), tmp_path_factory.mktemp('clips'), lab.root
    )
    planned = sum(part.seconds for part in plan_train(planner, 'supervised'))
    began = time.process_time()
    train_run(run)
    measured = time.process_time() - began
    assert 1 / 2.5 < planned / measured < 2.5


def test_a_plan_for_a_gpu_times_nothing(lab, tmp_path, monkeypatch):
    "It is the same wherever it is made, and is made at once."
    from wavbrivl.planning import costs, planner, stages, steps

    planner_of = lambda k: Planner(stated_machine('h200'), tmp_path / k, lab.root)
    names = [('train', 'wavbrivl'), ('targets', None), ('variant', 'ds_rf')]
    names += [('corpus', None), ('wavlm', None), ('evaluator', None)]

    def refuse(*given):
        raise AssertionError('timed')

    for module, name in (
        (costs, 'fastest'),
        (steps, 'seconds_of'),
        (stages, 'seconds_of'),
        (stages, 'fastest'),
        (planner, 'time_import'),
    ):
        monkeypatch.setattr(module, name, refuse)
    found = []
    for k in 'ab':
        p = planner_of(k)
        found.append([STAGE_PLANS[stage](p, name) for stage, name in names])
    assert found[0] == found[1]


def test_a_large_encoder_is_never_filled_with_weights(lab, sample):
    large = lab.params.audio.model_copy(update=dict(layers=2, hidden=2048, ffn=8192))
    params = lab.params.model_copy(update=dict(audio=large))
    task = made.bridge_task(params, sample, 16)
    assert all(w.is_meta for w in task.bridge.tower.front.parameters())
    language = params.language
    _, cost = count_steps(task, language.optim, language, False)
    assert cost.flops > 1e6


def test_variants_that_differ_in_the_choice_of_pairs_are_counted_once(
    lab, tmp_path, monkeypatch
):
    from wavbrivl.planning import later_stages

    built, make = [], later_stages.bridge_task
    note = lambda *given: built.append(1) or make(*given)
    monkeypatch.setattr(later_stages, 'bridge_task', note)
    planner = Planner(stated_machine('h200'), tmp_path / 'sample', lab.root)
    for select in ('both', 'none', 'random'):
        language = planner.board.language
        chosen = language.select.model_copy(update=dict(by=select))
        language = language.model_copy(update=dict(select=chosen))
        run = planner.board.model_copy(update=dict(language=language))
        planner.measured['params', made_key(select)] = run
        STAGE_PLANS['variant'](planner, select)
    assert len(built) == 1


@pytest.fixture
def planner(lab, tmp_path):
    return Planner(stated_machine('h200'), tmp_path / 'sample', lab.root)


def count_calls(monkeypatch, module, name) -> list:
    "A list that grows by one with each call of a function."
    calls, function = [], getattr(module, name)
    note = lambda *given: calls.append(1) or function(*given)
    monkeypatch.setattr(module, name, note)
    return calls


def plan_changed(planner, stage, name, section, **changes):
    "Plan a stage under the board's settings with one section changed."
    changed = getattr(planner.board, section).model_copy(update=changes)
    run = planner.board.model_copy(update={section: changed})
    planner.measured['params', made_key(name)] = run
    return STAGE_PLANS[stage](planner, name)


def test_teachers_of_one_architecture_are_measured_once(planner, monkeypatch):
    from wavbrivl.planning import stages

    teachers = count_calls(monkeypatch, stages, 'brivl_task')
    towers = count_calls(monkeypatch, stages, 'train_task')
    one = plan_changed(planner, 'teacher', 'one', 'brivl', seed=1)
    two = plan_changed(planner, 'teacher', 'two', 'brivl', seed=2)
    assert one == two and len(teachers) == len(towers) == 1
    plan_changed(planner, 'teacher', 'three', 'brivl', queue_start=1.0)
    assert len(teachers) == 2 and len(towers) == 1  # its own steps, the same towers


def test_sounds_are_encoded_once_for_variants_of_one_encoder(planner, monkeypatch):
    from wavbrivl.planning import sample

    encoded = count_calls(monkeypatch, sample, 'encoded_sample')
    for ds_net in (True, False):
        plan_changed(planner, 'variant', str(ds_net), 'language', ds_net=ds_net)
    assert len(encoded) == 1


def made_key(run):
    from wavbrivl.training.loop import fingerprint

    return fingerprint(run)


def test_a_released_decoder_is_not_trained(lab, tmp_path):
    planner = Planner(stated_machine('rtx4090'), tmp_path / 'sample', lab.root)
    board = planner.board
    released = board.generator.model_copy(update=dict(kind='pipeline'))
    drawn = board.generate.model_copy(update=dict(kinds=['pipeline', 'ranked']))
    planner.board = board.model_copy(update=dict(generator=released, generate=drawn))
    planner.config = dict(planner.config, pictures={})
    for stage in ('vqgan', 'diffusion'):
        (part,) = STAGE_PLANS[stage](planner, None)
        assert 'not trained' in part.what and not part.flops


def test_no_clips_are_no_number_of_clips(tmp_path):
    for number in (0, -5):
        with pytest.raises(BadInput, match='--clips is'):
            count_clips(CorpusParams(), tmp_path, number)


def test_memory_that_files_are_cached_in_counts_as_free():
    from wavbrivl.planning.costs import memory_here

    told = open('/proc/meminfo').read()
    there = int(told.split('MemAvailable:')[1].split()[0]) * 1024
    assert memory_here() > 0.7 * there

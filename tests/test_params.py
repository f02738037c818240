"A mistake in the config is a sentence that names the key, and the exit status says so."

import json
import re
from pathlib import Path

import pytest
import yaml

from wavbrivl.app.cli import main
from wavbrivl.app.layout import read_layout
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import Section, TuneParams
from wavbrivl.core.picture_params import Params
from wavbrivl.core.config import (
    NAME_GROUPS,
    RENAMED_GROUPS,
    describe_params,
    iterate_keys,
    list_experiments,
    list_keys,
    load_params,
    merge_config,
    read_config_layers,
    list_renamed_keys,
    list_runs,
)

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / 'presets').glob('*.yaml'))


def sections_of(section):
    "All classes below a section class."
    for c in section.__subclasses__():
        yield c
        yield from sections_of(c)


SECTIONS = [c for c in sections_of(Section) if c.__module__.startswith('wavbrivl.core')]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv('WAVBRIVL_ROOT', str(tmp_path))

    def write(text):
        (tmp_path / 'params.yaml').write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    'text, words',
    [
        ('train: {losss: moco}', ['train.losss', 'train.loss']),
        ('brivl: {optim: {learning_rate: 1}}', ['brivl.optim.learning_rate']),
        ('tarin: {}', ['tarin', 'train']),
        (
            'train: {momentum: 1.5}',
            ['train.momentum', '1.5', 'at least 0', 'at most 1'],
        ),
        ('train: {loss: hinge}', ['train.loss', 'moco', 'infonce']),
        ('corpus: {frames: many}', ['corpus.frames', 'many']),
        ('corpus: [1]', ['corpus']),
        ('train: {a', ['YAML']),
    ],
)
def test_refused_with_a_sentence(config, capsys, text, words):
    config(text)
    assert main(['params']) == 2
    printed = capsys.readouterr().err
    assert all(w in printed for w in words), printed


def test_run_prints_what_it_uses(config, capsys):
    config('train: {loss: moco}\nruns: {cosine: {train: {loss: cosine}}, plain: {}}')
    assert main(['params', '--run', 'cosine', '--json']) == 0
    used = json.loads(capsys.readouterr().out)
    assert used['train']['loss'] == 'cosine' and used['train']['momentum'] == 0.99
    assert main(['params', '--run', 'cosin']) == 2
    assert "'cosine'" in capsys.readouterr().err


def test_preset_replaces_runs(config, tmp_path):
    root = config('runs: {a: {}, b: {train: {loss: l2}}}\ntrain: {seeds: [5]}')
    preset = tmp_path / 'preset.yaml'
    preset.write_text('train: {loss: infonce}\nruns: {c: {}}')
    assert main(['params', '--preset', str(preset), '--write']) == 0
    used = load_params('c', root).train
    assert list_runs(root) == ['c'] and used.loss == 'infonce' and used.seeds == [5]
    preset.write_text('nonsense: 1')
    assert main(['params', '--preset', str(preset), '--write']) == 2
    assert list_runs(root) == ['c'], 'a refused preset changes nothing'


def test_preset_replaces_variants_of_both_groups(config, tmp_path):
    root = config(
        'variants: {a: {}}\nencoder_variants: {b: {language: {encoder: wavbrivl}}}'
    )
    assert list_runs(root, 'variants') == ['a', 'b']
    preset = tmp_path / 'preset.yaml'
    preset.write_text('variants: {c: {}}')
    assert main(['params', '--preset', str(preset), '--write']) == 0
    assert list_runs(root, 'variants') == ['c']
    written = yaml.safe_load((root / 'params.yaml').read_text())
    assert written['encoder_variants'] == {}, 'DVC needs the key'


def test_number_written_as_yaml_text(config):
    root = config('train: {optim: {lr: 1e-3}}')
    assert load_params(None, root).train.optim.lr == 1e-3


def test_partial_settings_keep_the_defaults_of_their_section(config):
    optim = load_params(None, config('vqgan: {optim: {epochs: 40}}')).vqgan.optim
    assert optim == Params().vqgan.optim.model_copy(update=dict(epochs=40))


def leaves(fields):
    "Dotted names of settings, without those of sections."
    known = list_keys()
    inner = {k.rpartition('.')[0] for k in known}
    return [k for k in iterate_keys(fields) if k in known and k not in inner]


@pytest.fixture(scope='module')
def shipped(tmp_path_factory):
    "A lab with the params.yaml that comes with the library: a reader's own may be any preset, with any runs."
    root = tmp_path_factory.mktemp('shipped')
    (root / 'params.yaml').write_bytes(read_layout()['params.yaml'])
    return root


def test_config_can_be_surveyed(shipped):
    text = (shipped / 'params.yaml').read_text()
    fields = yaml.safe_load(text)
    assert all(fields[k] for k in NAME_GROUPS if k != 'teachers')
    assert 'teachers' in fields, 'DVC needs the key'
    sections = {k: v for k, v in fields.items() if k not in NAME_GROUPS}
    assert set(iterate_keys(sections)) <= set(list_keys())
    assert len(leaves(sections)) <= 80
    shown = text[: text.index('\nruns:')]
    lines = re.findall(r'(?m)^ *\w+: .*[^:\s]$', shown)
    assert [s for s in lines if '#' not in s] == [], 'every setting has a comment'


def test_every_setting_is_printed_with_its_default(shipped):
    params = load_params('supervised', shipped)
    text = describe_params(params)
    assert yaml.safe_load(text) == params.model_dump()
    assert '  loss: labels  # default: moco\n' in text
    assert '# default' not in describe_params(Params())


def test_every_run_of_the_lab():
    fields = read_config_layers(ROOT)
    for name in (None, *list_experiments(fields)):
        assert load_params(name, ROOT).language.encoder in fields['encoders']


@pytest.mark.parametrize('preset', PRESETS, ids=lambda p: p.stem)
def test_every_run_of_every_preset(preset, shipped):
    fields = read_config_layers(shipped, preset)
    for name in (None, *list_experiments(fields)):
        used = load_params(name, shipped, preset)
        assert used.language.encoder in fields['encoders']
    assert set(fields['study']['runs']) <= set(fields['runs'])


def test_the_ablations_hold_the_variants_they_are_compared_with(shipped):
    preset = ROOT / 'presets/ablations.yaml'
    own, laid = (read_config_layers(shipped, p) for p in (None, preset))
    for group in ('variants', 'encoder_variants', 'pictures'):
        for name, change in own[group].items():
            assert laid[group].get(name) == change, name


def test_the_papers_size(shipped):
    "The preset describes the released models: their sizes, and parts that fit each other."
    import torch
    from wavbrivl.image_text.brivl import BriVL
    from wavbrivl.decoders.diffusion import LatentDiffusion
    from wavbrivl.decoders.vqgan import VQGAN
    from wavbrivl.audio.tower import AudioTower

    p = load_params('wavbrivl', shipped, ROOT / 'presets/papers.yaml')
    with torch.device('meta'):
        brivl, vqgan = BriVL(p.brivl.preset), VQGAN(p.vqgan)
        tower = AudioTower(p.audio, brivl.dim, p.train.window)
        drawer = LatentDiffusion(p.diffusion, brivl.dim, vqgan.config.embed, vqgan.side)
    assert (brivl.dim, brivl.config.image_size) == (2048, 380)
    assert p.corpus.image_size == 380
    assert (vqgan.side, drawer.side, vqgan.stride) == (16, 16, 16)
    size = sum(x.numel() for x in tower.wavlm.parameters())
    assert round(size / 1e6, 1) == 94.4, 'base+'


def test_a_variant_is_a_run_and_a_name_is_one(config):
    root = config(
        'runs: {a: {train: {seeds: [3]}}}\nvariants: {b: {language: {gloss: aslg}}}'
    )
    assert load_params('b', root).language.gloss == 'aslg'
    assert list_runs(root, 'variants') == ['b']
    with pytest.raises(BadInput, match='language.gloss'):
        load_params('b', config('variants: {b: {language: {gloss: signs}}}'))
    with pytest.raises(BadInput, match='under runs: and under variants:'):
        load_params('a', config('runs: {a: {}}\nvariants: {a: {}}'))


def test_a_variant_stands_where_dvc_knows_its_encoder(config):
    with pytest.raises(BadInput, match='move it from variants: to encoder_variants:'):
        load_params(None, config('variants: {b: {language: {encoder: wavbrivl}}}'))
    with pytest.raises(BadInput, match='names no language.encoder'):
        load_params(None, config('encoder_variants: {b: {language: {beam: 2}}}'))


def test_pictures_name_runs_and_change_them(config):
    root = config('runs: {a: {}}\npictures: {a: {generate: {kinds: [guided]}}}')
    assert load_params('a', root).generate.kinds == ['guided']
    assert load_params(None, root).generate.kinds == ['diffusion']
    with pytest.raises(BadInput, match='b stands under pictures'):
        load_params(None, config('runs: {a: {}}\npictures: {b: {}}'))


OLD = list_renamed_keys()


def nested(key):
    "A mapping with `key`, a dotted name."
    value = {}
    for part in reversed(key.split('.')):
        value = {part: value}
    return value


@pytest.mark.parametrize('old', OLD)
def test_an_old_name_is_answered_with_the_new_one(config, tmp_path, old):
    said = re.escape(f'write {OLD[old]} instead of {old}.')
    fields = nested(old)
    with pytest.raises(BadInput, match=said) as e:
        load_params(None, config(yaml.safe_dump(fields)))
    assert str(e.value).count('. ') == 0, 'one sentence'
    for group in ('runs', 'variants', 'encoder_variants', 'pictures'):
        where = {group: dict(a=fields)}
        if group == 'pictures':
            where['runs'] = dict(a={})
        with pytest.raises(BadInput, match=said):
            load_params(None, config(yaml.safe_dump(where)))
    preset = tmp_path / 'preset.yaml'
    preset.write_text(yaml.safe_dump(fields))
    with pytest.raises(BadInput, match=said):
        load_params(None, config('device: cpu'), preset)


@pytest.mark.parametrize('old', RENAMED_GROUPS)
def test_an_old_group_is_answered_with_the_new_one(config, old):
    said = f'write {RENAMED_GROUPS[old]} instead of {old}.'
    with pytest.raises(BadInput, match=said):
        load_params(None, config(f'{old}: {{a: {{language: {{front: wavlm}}}}}}'))


@pytest.mark.parametrize('section', SECTIONS, ids=lambda c: c.__name__)
def test_a_saved_model_of_old_opens(section):
    now = section().model_dump()
    back = {new: old for old, new in section.renamed.items() if '.' not in old}
    assert set(back) <= set(now) and not set(section.renamed) & set(now)
    saved = {back.get(k, k): v for k, v in now.items()}
    assert section(**saved).model_dump() == now


def stages():
    pipeline = yaml.safe_load((ROOT / 'dvc.yaml').read_text())
    return pipeline['vars'], [s.get('do', s) for s in pipeline['stages'].values()]


def test_dvc_watches_settings_that_exist(shipped):
    "DVC fails on a parameter that is not in the file."
    fields = yaml.safe_load((shipped / 'params.yaml').read_text())
    here = set(iterate_keys(fields))
    _, found = stages()
    for stage in found:
        for entry in stage.get('params', []):
            if isinstance(entry, str) and '${' not in entry:
                assert entry in here, entry
    text = (ROOT / 'dvc.yaml').read_text()
    for key in re.findall(r'\$\{([a-z]+(?:\.[a-z_]+)+)\}', text):
        assert key in here or key.startswith('item.'), key


def test_dvc_watches_the_defaults_of_every_section():
    "DVC reads the classes without running them, so every default is a literal."
    from dvc.utils.serialize import parse_py

    names, found = stages()
    files = {k: v for d in names for k, v in d.items()}
    watched = {}
    for stage in found:
        for entry in stage.get('params', []):
            if isinstance(entry, dict):
                ((place, classes),) = entry.items()
                watched |= dict.fromkeys(classes, files[place.strip('${}')])
    # `tune` is a command's, not a stage's
    sections = [c for c in SECTIONS if c not in (Params, TuneParams)]
    assert set(watched) == {c.__name__ for c in sections}
    for section in sections:
        path = ROOT / watched[section.__name__]
        seen = parse_py(path.read_text(), path)[section.__name__]
        own = section.__annotations__.keys() - {'renamed'}
        calls = {k for k in own if _is_plain_section(section.model_fields[k])}
        assert own - calls <= seen.keys(), section


def _is_plain_section(field):
    "A nested section with its own class's defaults, which DVC watches there."
    return isinstance(field.default, Section)


def test_overlay_changes_a_copy():
    base = dict(a=dict(b=1), c=2)
    assert merge_config(base, dict(a=dict(d=3))) == dict(a=dict(b=1, d=3), c=2)
    assert base == dict(a=dict(b=1), c=2)

"Models that come as a pickle: rewritten without running anything, refused with a sentence where that cannot be."

import json
import os
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from wavbrivl.app.cli import main
from wavbrivl.audio.encoders import load_encoder
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.teachers.clip import open_teacher
from wavbrivl.core.params import TeacherParams
from wavbrivl.teachers.pickles import import_pickle
import tiny_teachers as tiny

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    "A tiny WavLM as its authors left theirs: pytorch_model.bin and no safetensors."
    folder = tmp_path_factory.mktemp('wavlm')
    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = hf.WavLMConfig(
        **sizes,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    config.save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    torch.save(hf.WavLMModel(config).state_dict(), folder / 'pytorch_model.bin')
    (folder / 'modeling.py').write_text('raise SystemExit')
    (folder / 'flax_model.msgpack').write_bytes(b'')
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_refusal_names_the_command_that_helps(encoder, tmp_path, capsys):
    with pytest.raises(BadFile, match='modeling.py'):
        load_encoder(encoder)
    (encoder / 'modeling.py').rename(tmp_path / 'modeling.py')
    with pytest.raises(BadFile) as e:
        load_encoder(encoder)
    (tmp_path / 'modeling.py').rename(encoder / 'modeling.py')
    said = str(e.value)
    assert (
        'pytorch_model.bin' in said
        and f'wavbrivl import pickle {encoder} -o FOLDER' in said
    )
    assert main(['import', 'pickle', str(encoder), '-o', str(tmp_path / 'out')]) == 0
    assert 'tensors matched' in capsys.readouterr().out
    assert names(tmp_path / 'out') == [
        'config.json',
        'model.safetensors',
        'preprocessor_config.json',
    ]
    assert load_encoder(tmp_path / 'out')


def test_every_number_is_kept(encoder, tmp_path):
    import_pickle(encoder, tmp_path / 'out')
    old = torch.load(encoder / 'pytorch_model.bin', weights_only=True)
    new = load_file(tmp_path / 'out/model.safetensors')
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)


def test_parts_and_their_index(encoder, tmp_path):
    old, new = tmp_path / 'old', tmp_path / 'new'
    old.mkdir()
    for name in ('config.json', 'preprocessor_config.json'):
        (old / name).write_bytes((encoder / name).read_bytes())
    weights = torch.load(encoder / 'pytorch_model.bin', weights_only=True)
    halves = [dict(list(weights.items())[k::2]) for k in range(2)]
    places = {}
    for k, half in enumerate(halves):
        file = f'pytorch_model-0000{k + 1}-of-00002.bin'
        torch.save(half, old / file)
        places |= dict.fromkeys(half, file)
    index = dict(metadata={}, weight_map=places)
    (old / 'pytorch_model.bin.index.json').write_text(json.dumps(index))
    assert main(['import', 'pickle', str(old), '-o', str(new)]) == 0
    assert 'model-00002-of-00002.safetensors' in names(
        new
    ) and 'model.safetensors.index.json' in names(new)
    assert not [n for n in names(new) if '.bin' in n]
    assert load_encoder(new)
    index['weight_map'] = {k: '../x.bin' for k in places}
    (old / 'pytorch_model.bin.index.json').write_text(json.dumps(index))
    with pytest.raises(BadFile, match='does not name files of this folder'):
        import_pickle(old, tmp_path / 'other')


def test_tied_weights(tmp_path):
    tied, folder = torch.randn(4, 2), tmp_path / 'old'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    torch.save(dict(a=tied, b=tied, c=tied[1:]), folder / 'pytorch_model.bin')
    import_pickle(folder, tmp_path / 'new')
    found = load_file(tmp_path / 'new/model.safetensors')
    assert torch.equal(found['a'], found['b']) and torch.equal(found['c'], tied[1:])


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


SPOILT = {
    'holds pickled objects': lambda trap: dict(a=torch.ones(1), b=Intruder(trap)),
    'other things than weights': lambda trap: dict(a=torch.ones(1), b=3),
    'other things': lambda trap: [torch.ones(1)],
}


@pytest.mark.parametrize('words', SPOILT)
def test_a_malicious_or_other_pickle_is_refused_and_not_run(tmp_path, words):
    folder, trap = tmp_path / 'old', str(tmp_path / 'ran')
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    torch.save(SPOILT[words](trap), folder / 'pytorch_model.bin')
    with pytest.raises(BadFile, match=words):
        import_pickle(folder, tmp_path / 'new')
    assert not os.path.exists(trap) and not (tmp_path / 'new').exists()


def test_a_broken_file_and_an_empty_folder(tmp_path, capsys):
    (tmp_path / 'pytorch_model.bin').write_bytes(b'PK\x03\x04 not really')
    with pytest.raises(BadFile, match='pytorch_model.bin'):
        import_pickle(tmp_path, tmp_path / 'new')
    (tmp_path / 'pytorch_model.bin').unlink()
    with pytest.raises(BadInput, match='holds none of'):
        import_pickle(tmp_path, tmp_path / 'new')
    assert (
        main(['import', 'pickle', 'nobody/nothing', '-o', str(tmp_path / 'new')]) == 2
    )
    assert 'hf download nobody/nothing' in capsys.readouterr().err


def test_the_folder_that_is_read_is_not_written(encoder):
    with pytest.raises(BadInput, match='name another'):
        import_pickle(encoder, encoder)


def test_a_teacher_opens_once_it_is_rewritten(tmp_path):
    old, new = tmp_path / 'clip', tmp_path / 'new'
    tiny.save_clip(old)
    torch.save(load_file(old / 'model.safetensors'), old / 'pytorch_model.bin')
    (old / 'model.safetensors').unlink()
    import_pickle(old, new)
    teacher = open_teacher(TeacherParams(kind='transformers', checkpoint=str(new)))
    assert len(teacher.encode_text(['a dog'])) == 1

"""The demo page: what it answers without a browser, and the page itself in one. See nbs/22_app/.

The browser has no network beyond this machine, a microphone that beeps, and a log of what it asked for.
"""

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import soundfile as sf
import torch
from PIL import Image
from browser import open_chromium
from tiny import SMALL

from wavbrivl.api.painter import Painter, painter_beside
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.app.cli import main
from wavbrivl.app import demo
from wavbrivl.app.examples import render_examples
from wavbrivl.app.listening import (
    MAX_PICTURES,
    Listener,
    index_pictures,
    kinds_of,
    name_windows,
    open_listener,
    open_picture_index,
    open_recording,
    read_typed_names,
)
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import BrivlParams
from wavbrivl.core.picture_params import DiffusionParams, GeneratorParams, VqganParams
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer

RATE = 16_000
NAMES = ['dog', 'rain', 'bell']

pytestmark = pytest.mark.usefixtures('one_thread')


def tone(seconds=1.0, hz=440.0):
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def new_model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls', 'a bell rings'], 100)
    text = dict(vocab=tokenizer.get_vocab_size(), hidden=32, layers=1, heads=2, ffn=32)
    brivl = BriVL(BrivlParams(image_size=32, text=text))
    tower = AudioTower(SMALL, brivl.dim, 0.5)
    return WavBriVL(tower, brivl, tokenizer, dict(picture=32))


def new_painter(dim):
    sizes = dict(size=32, ch=16, ch_mult=[1, 2, 2], attention=[], channels=32, codes=64)
    vqgan = VQGAN(VqganParams(**sizes))
    drawing = DiffusionParams(ch=[32, 32], inference_steps=6)
    return Painter(vqgan, LatentDiffusion(drawing, dim, vqgan.config.embed, vqgan.side))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Sounds good and bad, twelve pictures, a model's folder with a painter beside it."
    d = tmp_path_factory.mktemp('demo')
    rng = np.random.default_rng(0)
    sf.write(d / 'tone.wav', tone(3.0), RATE)
    sf.write(d / 'silent.wav', np.zeros(RATE), RATE)
    sf.write(d / 'long.flac', tone(61.0), RATE)
    (d / '*odd* <name>.wav').write_bytes(b'this is no sound')
    (d / 'empty.wav').write_bytes(b'')
    (d / 'pictures').mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(d / f'pictures/p{i:02d}.png')
    (d / 'pictures/broken.jpg').write_bytes(b'\xff\xd8\xff broken')
    model = new_model()
    model.save_pretrained(d / 'models/one/seed-0')
    new_painter(model.dim).save(d / 'models/painter')
    return d


@pytest.fixture(scope='module')
def listener(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    here = place / 'models/one/seed-0'
    model = WavBriVL.from_pretrained(here, 'cpu')
    return open_listener(model, folder, NAMES, place / 'pictures')


# ---------------------------------------------------------------- what is answered


def test_a_sound_is_answered(listener, place):
    heard = listener.hear(place / 'tone.wav', 'dog, rain\nbell')
    assert set(heard.names) == set(NAMES)
    assert abs(sum(heard.names.values()) - 1) < 1e-5
    assert len(heard.pictures) == 8 and heard.notes == []
    assert all(max(p.size) <= 480 for p, _ in heard.pictures)
    cosines = [float(c.split()[-1]) for _, c in heard.pictures]
    assert cosines == sorted(cosines, reverse=True)
    assert heard.words.startswith('0.0 to ') and heard.words.endswith(tuple(NAMES))
    assert heard.figure.mode == 'RGB' and heard.figure.width > 700


@pytest.mark.parametrize(
    'name, said',
    [
        ('silent.wav', 'silent'),
        ('long.flac', 'longer than 60 s'),
        ('*odd* <name>.wav', '*odd* <name>.wav'),
        ('empty.wav', 'empty.wav'),
        ('gone.wav', 'gone.wav'),
    ],
)
def test_a_bad_sound_is_a_sentence(listener, place, name, said):
    with pytest.raises(BadInput) as e:
        listener.hear(place / name, 'dog, rain')
    assert said in str(e.value) and str(place) not in str(e.value)


@pytest.mark.parametrize('typed', ['', 'dog', 'dog,dog', ' , ,', ',\n,', None])
def test_two_names_at_least(listener, place, typed):
    with pytest.raises(BadInput, match='names'):
        listener.hear(place / 'tone.wav', typed)


def test_unknown_names_are_noted(listener, place):
    heard = listener.hear(place / 'tone.wav', 'dog, 狗, bell')
    assert set(heard.names) == {'dog', 'bell'} and '狗' in heard.notes[0]
    with pytest.raises(BadInput, match='one of these names only, dog'):
        listener.hear(place / 'tone.wav', 'dog, 狗')


def test_too_many_names():
    with pytest.raises(BadInput, match='401 names'):
        read_typed_names(','.join(f'n{i}' for i in range(401)))


def test_a_timeline_has_a_window_each_quarter_and_no_name_for_silence(listener):
    x = np.concatenate([tone(2.0), np.zeros(2 * RATE)]).astype(np.float32)
    line = name_windows(listener.model, x, NAMES)
    assert line.scores.shape == (3, 13)
    assert (
        np.isnan(line.scores[:, -4:]).all() and not np.isnan(line.scores[:, :8]).any()
    )
    assert line.spans(4.0)[-1][1] < 3.0
    short = name_windows(listener.model, x[:100], NAMES)
    assert short.scores.shape == (3, 1) and short.spans(0.1)[0][:2] == (0.0, 0.1)


def test_drawing_tells_how_far_it_is(listener, place):
    shares = []
    picture, cosine = listener.draw(
        place / 'tone.wav', 'diffusion', 2, 7, shares.append
    )
    assert picture.size == (32, 32) and -1 <= cosine <= 1
    assert shares == sorted(shares) and len(set(shares)) == 6 and shares[-1] == 1.0
    again, _ = listener.draw(place / 'tone.wav', 'diffusion', 2, 7, shares.append)
    assert np.array_equal(np.asarray(picture), np.asarray(again))
    assert kinds_of(listener.painter) == ['diffusion'] and kinds_of(None) == []
    bare = Listener(listener.model, NAMES, [])
    with pytest.raises(BadInput, match='dvc repro diffusion'):
        bare.draw(place / 'tone.wav', 'diffusion', 1, 0, print)


def test_pictures_by_folder_or_index(listener, place, tmp_path):
    index = index_pictures(
        listener.model, sorted((place / 'pictures').glob('p*.png')), tmp_path / 'i'
    )
    assert len(open_picture_index(listener.model, tmp_path / 'i', tmp_path)) == len(
        index
    )
    with pytest.raises(BadInput, match='no picture'):
        open_picture_index(listener.model, tmp_path / 'nothing', tmp_path / 'j')
    with pytest.raises(BadInput, match='wavbrivl index'):
        index_pictures(listener.model, ['x.png'] * (MAX_PICTURES + 1), tmp_path)
    torch.manual_seed(1)
    other = new_model()
    with torch.no_grad():
        other.audio.to_joint.weight.add_(1)
    with pytest.raises(BadInput, match='another model'):
        open_picture_index(other, tmp_path / 'i', tmp_path)


def test_examples_are_sounds(tmp_path):
    found = render_examples(tmp_path, ['dog', 'bell'], 2)
    names = [Path(r['sound']).name for r in found]
    assert names == ['dog.wav', 'bell.wav', 'dog-2.wav', 'bell-2.wav']
    assert all(len(open_recording(r['sound'])[0]) > RATE for r in found)
    assert found[0]['heard'].startswith('dog')


def test_examples_replace_nothing(tmp_path, capsys):
    (tmp_path / 'dog.wav').write_bytes(b'mine')
    assert main(['examples', str(tmp_path)]) == 2
    assert 'not empty' in capsys.readouterr().err
    assert (tmp_path / 'dog.wav').read_bytes() == b'mine'


def test_the_painter_lies_beside_the_model_or_its_run(place):
    beside = place / 'models/painter'
    assert painter_beside(place / 'models/one') == beside.resolve()
    assert painter_beside(place / 'models/one/seed-0') == beside.resolve()
    assert painter_beside(place) is None


def test_a_painter_that_names_a_released_decoder(tmp_path):
    named = GeneratorParams(kind='pipeline', checkpoint=str(tmp_path))
    assert kinds_of(Painter(None, generator=named)) == ['pipeline']
    both = new_painter(32)
    both.generator = named
    assert kinds_of(both) == ['pipeline', 'diffusion'], 'its own first'
    Painter(None, generator=named).save(tmp_path / 'models/painter')
    beside = tmp_path / 'models/painter'
    assert painter_beside(tmp_path / 'models/one') == beside.resolve()


def test_what_nobody_foresaw_is_a_sentence(capsys):
    answer, fault = demo.say(lambda: 1 / 0)
    assert answer is None and 'ZeroDivisionError' in fault
    assert 'Traceback' in capsys.readouterr().err


@pytest.mark.parametrize(
    'words, said',
    [
        ('--port 0', '--port'),
        ('--port 99999', '65535'),
        ('--labels dog', 'two class names'),
        ('--pictures /nowhere', '/nowhere'),
        ('--painter /nowhere', '/nowhere'),
        ('--device cuda:9', 'cuda'),
    ],
)
def test_bad_options_are_a_sentence(place, capsys, words, said):
    try:
        status = main(['demo', str(place / 'models/one'), *words.split()])
    except SystemExit as e:
        status = e.code
    err = capsys.readouterr().err
    assert status == 2 and said in err and 'Traceback' not in err


# ---------------------------------------------------------------- the page in a browser

FLAGS = (
    'window-size=1440,1000',
    'use-fake-device-for-media-stream',
    'use-fake-ui-for-media-stream',
    'host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
)


@pytest.fixture(scope='module')
def served(listener, tmp_path_factory):
    "The page, open at a free port."
    pytest.importorskip('gradio', reason='gradio is not installed')
    gr = demo.import_gradio(tmp_path_factory.mktemp('uploads'))
    page = demo.build_page(gr, listener)
    port = free_port()
    address = demo.open_page(gr, page, port)
    assert address.rstrip('/') == f'http://127.0.0.1:{port}'
    yield address
    page.close(verbose=False)


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    yield from open_chromium(tmp_path_factory.mktemp('browser'), *FLAGS)


def until(browser, condition, seconds=120.0):
    from selenium.common import exceptions as e
    from selenium.webdriver.support.ui import WebDriverWait

    passing = [
        e.StaleElementReferenceException,
        e.ElementClickInterceptedException,
        e.ElementNotInteractableException,
    ]
    wait = WebDriverWait(browser, seconds, 0.2, ignored_exceptions=passing)
    return wait.until(lambda b: condition(b))


def text_of(browser, name):
    return browser.find_element('id', name).text


def find(browser, css):
    return browser.find_elements('css selector', css)


@pytest.fixture
def browser(chromium, served):
    "The page, fresh, in the one browser."
    for kind in ('browser', 'performance'):
        chromium.get_log(kind)
    chromium.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    chromium.get(served)
    until(chromium, lambda b: find(b, '#again'))
    return chromium


def requested(browser):
    "Hosts that the browser asked for anything."
    hosts = set()
    for entry in browser.get_log('performance'):
        message = json.loads(entry['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            url = urlparse(message['params']['request']['url'])
            if url.scheme in ('http', 'https', 'ws', 'wss'):
                hosts.add(url.hostname)
    return hosts


def complaints(browser):
    "Errors in the browser's console."
    return [e['message'] for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def upload(browser, path):
    if clear := find(browser, '#sound button[aria-label="Clear"]'):
        clear[0].click()
    until(browser, file_input)[0].send_keys(str(path))


def file_input(browser):
    "Where a file is given; a click before the page is alive does nothing, so it is repeated."
    if found := find(browser, '#sound input[type=file]'):
        return found
    for tab in find(browser, '#sound button[aria-label="Upload file"]'):
        tab.click()


def answered(browser):
    return 'to' in text_of(browser, 'words') and find(browser, '#figure img')


def test_upload_classify_draw(browser, place):
    upload(browser, place / 'tone.wav')
    until(browser, answered)
    assert any(n in text_of(browser, 'label') for n in NAMES)
    until(browser, lambda b: len(find(b, '#pictures img')) >= 8)
    browser.find_element('id', 'draw').click()
    until(browser, lambda b: find(b, '#drawn img'))
    until(browser, lambda b: 'cosine with the sound' in text_of(b, 'caption'))
    assert complaints(browser) == []
    assert requested(browser) == {'127.0.0.1'}


def test_names_are_the_readers(browser, place):
    upload(browser, place / 'tone.wav')
    until(browser, answered)
    box = find(browser, '#names textarea')[0]
    box.clear()
    box.send_keys('a dog barks, a bell rings')
    browser.find_element('id', 'again').click()
    until(browser, lambda b: 'a dog barks' in text_of(b, 'label'))
    box.clear()
    box.send_keys('dog')
    browser.find_element('id', 'again').click()
    until(browser, lambda b: '1 names; give 2' in text_of(b, 'said'))
    assert complaints(browser) == []


def test_an_example_by_a_click(browser):
    until(browser, lambda b: find(b, '#examples button, #examples tr, .gallery-item'))
    find(browser, '#examples button, #examples tr, .gallery-item')[0].click()
    until(browser, answered)
    assert complaints(browser) == [] and requested(browser) == {'127.0.0.1'}


def test_a_recording(browser):
    find(browser, '#sound button[aria-label="Record audio"]')[0].click()
    until(browser, lambda b: find(b, '#sound .record-button'))
    find(browser, '#sound .record-button')[0].click()
    stop = until(browser, lambda b: find(b, '#sound .stop-button'))
    threading.Event().wait(3)
    stop[0].click()
    until(browser, lambda b: answered(b) or text_of(b, 'said'))
    assert answered(browser), text_of(browser, 'said')
    assert complaints(browser) == []


@pytest.mark.parametrize(
    'name, said',
    [
        ('silent.wav', 'silent.wav is silent'),
        ('*odd* <name>.wav', 'name'),
        ('long.flac', 'longer than 60 s'),
    ],
)
def test_a_bad_file_is_a_sentence_on_the_page(browser, place, name, said):
    upload(browser, place / name)
    until(browser, lambda b: said in text_of(b, 'said'))
    assert not find(browser, '#figure img')
    browser.find_element('id', 'draw').click()
    until(browser, lambda b: said in text_of(b, 'caption'))
    upload(browser, place / 'tone.wav')
    until(browser, answered)
    assert text_of(browser, 'said') == ''


@pytest.mark.parametrize('width', [390, 1440])
def test_it_fits_the_window(browser, place, width):
    size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
    upload(browser, place / 'tone.wav')
    until(browser, answered)
    wide = browser.execute_script('return document.documentElement.scrollWidth')
    assert wide <= width


def test_twenty_at_once_and_none_is_lost(served, place):
    client = pytest.importorskip('gradio_client')
    # equal answers share a file, which Gradio writes anew while another is read: none is fetched
    one = client.Client(served, verbose=False, download_files=False)
    sound = client.handle_file(str(place / 'tone.wav'))
    jobs = [one.submit(sound, 'dog, bell', api_name='/hear') for _ in range(20)]
    answers = [job.result(timeout=400) for job in jobs]
    assert len(answers) == 20 and all(a[1]['label'] in ('dog', 'bell') for a in answers)


def test_foreign_hosts_are_forbidden_to_the_page(served):
    import httpx

    page = httpx.get(served)
    assert "default-src 'self'" in page.headers['content-security-policy']
    assert 'googleapis' not in page.text and 'cdn' not in page.text.lower()


ARENAS = """
import ctypes, sys, threading
from wavbrivl.app.demo import share_arena

if sys.argv[1] == 'shared':
    share_arena()
met = threading.Barrier(8)


def take():
    kept = [bytes(100_000) for _ in range(20)]
    met.wait()


threads = [threading.Thread(target=take) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(sys.argv[2].encode(), b'w')
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='not glibc')
def test_threads_take_memory_from_one_arena(tmp_path):
    arenas = {}
    for kind in ('shared', 'each'):
        told = tmp_path / f'{kind}.xml'
        run = [sys.executable, '-c', ARENAS, kind, str(told)]
        subprocess.run(run, check=True, env=dict(os.environ, MALLOC_ARENA_MAX='8'))
        arenas[kind] = told.read_text().count('<heap nr=')
    assert arenas['shared'] == 1 < arenas['each']

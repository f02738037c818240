"The survey in a real browser, the files that come back, and the counts. See nbs/16_survey/."

import copy, json, math, re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import open_chromium

from wavbrivl.core.files import BadFile, BadInput, write_json
from wavbrivl.media.sound import SAMPLE_RATE
from wavbrivl.survey.trials import draw_others, survey_fingerprint, make_trials
from wavbrivl.survey.page import CONSENT, trial_page
from wavbrivl.survey.answers import (
    RESPONSE_KINDS,
    RESPONSE_COLUMNS,
    self_agreement,
    choose_by_model,
    proxy_responses,
    read_responses,
    survey_table,
    wilson_interval,
)

NAMES = ['quokka', 'zeppelin', 'marimba']  # words that stand nowhere else on the page


def items(n=4, seconds=0.25, seed=0):
    rng = np.random.default_rng(seed)
    sounds = [
        (
            0.2
            * np.sin(
                2
                * np.pi
                * (300 + 100 * i)
                * np.arange(int(seconds * SAMPLE_RATE))
                / SAMPLE_RATE
            )
        ).astype(np.float32)
        for i in range(n)
    ]
    return (
        sounds,
        [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(n)],
        [NAMES[i % len(NAMES)] for i in range(n)],
    )


@pytest.fixture
def trials():
    return make_trials(*items(), seed=5)


def response(key, name='k7m2', choose=lambda t: t['target']):
    answers = [
        dict(trial=i, choice=choose(t), seconds=1.5) for i, t in key['trials'].items()
    ]
    return dict(
        fingerprint=key['fingerprint'],
        participant=name,
        started='',
        finished='',
        answers=answers,
    )


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize('n, repeats', [(2, 1), (2, 4), (3, 3), (7, 3), (24, 3)])
def test_every_item_in_every_repeat_with_even_sides(n, repeats):
    for seed in range(5):
        trials = make_trials(*items(n, 0.01), seed=seed, repeats=repeats)
        assert len({t['id'] for t in trials}) == n * repeats
        for r in range(repeats):
            part = trials[r * n : (r + 1) * n]
            assert sorted(t['item'] for t in part) == list(range(n)) and {
                t['repeat'] for t in part
            } == {r + 1}
            assert abs(sum(t['target'] == 'left' for t in part) - n / 2) <= 0.5
        assert all(a['item'] != b['item'] for a, b in zip(trials, trials[1:]))
        assert all(t['label'] != t['other'] for t in trials)


def test_pictures_stand_where_the_key_says(trials):
    _, pictures, labels = items()
    for t in trials:
        target, wrong = (
            (t['left'], t['right'])
            if t['target'] == 'left'
            else (t['right'], t['left'])
        )
        assert (target == pictures[t['item']]).all()
        assert (
            labels[next(i for i, p in enumerate(pictures) if (p == wrong).all())]
            == t['other']
        )


def test_seed_decides_everything():
    of = lambda seed: [
        (t['id'], t['item'], t['target']) for t in make_trials(*items(), seed=seed)
    ]
    assert of(1) == of(1) != of(2)


def test_others_may_be_given():
    trials = make_trials(*items(), others=[1, 0, 0, 2], seed=0)
    assert {t['item']: t['other'] for t in trials} == {
        0: 'zeppelin',
        1: 'quokka',
        2: 'quokka',
        3: 'marimba',
    }


@pytest.mark.parametrize('n', [2, 3, 8, 61])
def test_each_picture_is_the_wrong_one_once(n):
    labels = [NAMES[i % (2 + (n % 2))] for i in range(n)]
    others = draw_others(labels, np.random.default_rng(n))
    assert sorted(others) == list(range(n)) and all(
        labels[i] != labels[j] for i, j in enumerate(others)
    )


def test_lopsided_classes_still_get_another():
    labels = ['quokka'] * 9 + ['zeppelin']
    others = draw_others(labels, np.random.default_rng(0))
    assert (
        all(labels[i] != labels[j] for i, j in enumerate(others))
        and np.bincount(others)[9] == 9
    )


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda s, p, l: (s, p, ['quokka'] * 4), 'one class'),
        (lambda s, p, l: (s, p, l[:3]), '3 labels'),
        (lambda s, p, l: ([], [], []), 'one class'),
        (lambda s, p, l: (s, [p[0].astype(float), *p[1:]], l), 'picture 0'),
        (lambda s, p, l: (s, [*p[:3], p[3][..., 0]], l), 'picture 3'),
        (lambda s, p, l: ([s[0] * np.nan, *s[1:]], p, l), 'NaN'),
    ],
)
def test_bad_items(change, says):
    with pytest.raises(BadInput, match=says):
        make_trials(*change(*items()))


@pytest.mark.parametrize(
    'others',
    [[3, 0, 0, 1], [1, 0, 0], [1, 0, 0, 4], [1, 0, 0, -1], [1.0, 0.0, 0.0, 2.0]],
)
def test_bad_others(others):
    with pytest.raises(BadInput, match='others|own class'):
        make_trials(*items(), others=others)


def test_no_repeat_is_refused():
    with pytest.raises(BadInput, match='repeats'):
        make_trials(*items(), repeats=0)


# ---------------------------------------------------------------- the page as a file


def test_page_tells_nothing_and_fetches_nothing(tmp_path, trials):
    key = trial_page(
        trials, tmp_path / 's.html', title='A <b> & "title"', model='secretmodel'
    )
    page = (tmp_path / 's.html').read_text()
    data = json.loads(re.search('id="data">(.*?)</script>', page, re.S)[1])
    plain = re.sub('"data:[^"]*"', '', page)
    assert (
        not any(w in plain for w in (*NAMES, 'secretmodel', 'target', '://'))
        and 'A &lt;b&gt; &amp; &quot;title&quot;' in plain
    )
    assert set(data) == {'fingerprint', 'trials', 'media'} and all(
        set(t) == {'id', 'sound', 'left', 'right'} for t in data['trials']
    )
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ['s.html', 's.key.json']
        and json.loads((tmp_path / 's.key.json').read_text()) == key
    )
    assert key['model'] == 'secretmodel' and {
        i: (k['target'], k['label']) for i, k in key['trials'].items()
    } == {t['id']: (t['target'], t['label']) for t in trials}
    assert len(data['media']) == 8 and list(data['media']) == sorted(data['media']), (
        'four sounds and four pictures, each once, in no telling order'
    )


def test_page_is_the_same_every_time(tmp_path, trials):
    for name in 'ab':
        trial_page(trials, tmp_path / f'{name}.html')
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()


def test_fingerprint_covers_question_and_answer(trials):
    seen = {survey_fingerprint(trials)}
    for k, v in dict(
        target='right' if trials[0]['target'] == 'left' else 'left',
        label='horn',
        sound=trials[0]['sound'] * 0.5,
        left=255 - trials[0]['left'],
    ).items():
        seen.add(survey_fingerprint([trials[0] | {k: v}, *trials[1:]]))
    assert len(seen) == 5


def test_nothing_to_ask_is_refused(tmp_path, trials):
    with pytest.raises(BadInput, match='no trial'):
        trial_page([], tmp_path / 's.html')
    with pytest.raises(BadInput, match='one id'):
        trial_page(trials + trials[:1], tmp_path / 's.html')
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    yield from open_chromium(tmp_path_factory.mktemp('browser'), 'window-size=1100,900')


@pytest.fixture
def browser(chromium, tmp_path):
    "The one browser, with a fresh folder to save to, no memory of other pages, and a desktop's window."
    chromium.execute_cdp_cmd(
        'Browser.setDownloadBehavior',
        dict(behavior='allow', downloadPath=str(tmp_path / 'saved')),
    )
    chromium.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    chromium.get(tmp_path.as_uri())
    chromium.execute_script('localStorage.clear()')
    return chromium


def begin(browser, page, code='k7m2'):
    browser.get(page.as_uri())
    browser.find_element('id', 'code').send_keys(code)
    browser.find_element('id', 'agree').click()
    browser.find_element('css selector', '#start button').click()


def until(browser, condition, seconds=8.0):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.03).until(
        lambda b: condition(b)
    )


def place(browser):
    return browser.find_element('id', 'place').text


def open_answers(browser):
    return [
        b.is_enabled() for b in browser.find_elements('css selector', '[data-choice]')
    ]


def press(browser, key):
    browser.switch_to.active_element.send_keys(key)


def answer(browser, key):
    "Space, wait for the end of the sound, one of 1 2 3, wait for the next."
    before = place(browser)
    press(browser, ' ')
    until(browser, lambda b: all(open_answers(b)))
    press(browser, key)
    until(browser, lambda b: place(b) != before)


def test_a_whole_survey_by_keyboard(browser, tmp_path):
    "Listen, answer, reload, go back, change, save; the file says what was pressed."
    trials = make_trials(*items(3, 0.1), seed=5, repeats=2)
    trial_page(trials, tmp_path / 's.html')
    plan = list('123123')
    begin(browser, tmp_path / 's.html')
    assert place(browser) == 'Sound 1 of 6' and not any(open_answers(browser))
    press(browser, '1')
    assert place(browser) == 'Sound 1 of 6', 'not before it was heard'
    for k in plan[:3]:
        answer(browser, k)

    browser.refresh()
    assert place(browser) == 'Sound 4 of 6' and not any(open_answers(browser)), (
        'a reload goes on where it was'
    )
    browser.find_element('id', 'back').click()
    chosen = browser.find_element('css selector', '[aria-pressed=true]')
    assert (
        place(browser) == 'Sound 3 of 6'
        and chosen.get_attribute('data-choice') == 'neither'
        and all(open_answers(browser))
    )
    browser.find_element('css selector', '[data-choice=left]').click()
    plan[2] = '1'
    for k in plan[3:-1]:
        answer(browser, k)
    press(browser, ' ')
    until(browser, lambda b: all(open_answers(b)))
    press(browser, plan[-1])

    save = until(browser, lambda b: b.find_element('id', 'save'))
    text = browser.find_element('id', 'text').get_property('value')
    save.click()
    until(browser, lambda b: list((tmp_path / 'saved').glob('*.json')))
    got, rejected = read_responses(tmp_path / 'saved', tmp_path / 's.key.json')
    assert not rejected and json.loads(text) == json.loads(
        next((tmp_path / 'saved').glob('*.json')).read_text()
    )
    said = {'1': 'left', '2': 'right', '3': 'neither'}
    want = [
        'neither'
        if said[k] == 'neither'
        else 'target'
        if said[k] == t['target']
        else 'other'
        for k, t in zip(plan, trials)
    ]
    assert got.set_index('trial').choice.to_dict() == {
        t['id']: w for t, w in zip(trials, want)
    }
    assert (
        set(got.participant) == {'k7m2'}
        and (got.seconds >= 0.1).all()
        and (got.seconds < 8).all()
    )
    assert [e for e in browser.get_log('browser') if e['level'] == 'SEVERE'] == []

    browser.find_element('id', 'clear').click()
    browser.switch_to.alert.accept()
    until(browser, lambda b: b.find_element('id', 'code').is_displayed())
    assert browser.execute_script('return localStorage.length') == 0


def test_no_code_no_consent_no_survey(browser, tmp_path, trials):
    trial_page(
        trials, tmp_path / 's.html', consent=CONSENT + '<p>Approved by nobody.</p>'
    )
    browser.get((tmp_path / 's.html').as_uri())
    go, code = (
        browser.find_element('css selector', '#start button'),
        browser.find_element('id', 'code'),
    )
    assert (
        'Approved by nobody.' in browser.find_element('id', 'start').text
        and '12 short sounds' in browser.find_element('id', 'start').text
    )
    shown = lambda: browser.find_element('id', 'trial').is_displayed()
    go.click()
    assert not shown()
    code.send_keys('k7m2')
    go.click()
    assert not shown(), 'the box is not ticked'
    browser.find_element('id', 'agree').click()
    code.clear()
    code.send_keys('Ann Smith')
    go.click()
    assert not shown(), 'a code has no spaces'
    code.clear()
    code.send_keys('k7m2')
    go.click()
    assert shown()


def test_fits_a_phone_and_can_be_read_aloud(browser, tmp_path, trials):
    trial_page(trials, tmp_path / 's.html')
    browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        dict(width=360, height=740, deviceScaleFactor=2, mobile=True),
    )
    begin(browser, tmp_path / 's.html')
    assert browser.execute_script('return document.documentElement.scrollWidth') <= 360
    assert browser.switch_to.active_element.get_attribute('id') == 'play', (
        'the keyboard is on the sound'
    )
    assert [
        b.accessible_name
        for b in browser.find_elements('css selector', '[data-choice]')
    ] == ['Left picture Left', 'Right picture Right', 'Neither goes with it']
    boxes = [b.rect for b in browser.find_elements('css selector', '[data-choice]')]
    assert all(b['height'] >= 44 and b['y'] + b['height'] < 740 for b in boxes), (
        'within thumb and first screen'
    )
    assert all(
        i.get_property('naturalWidth') == 384
        for i in browser.find_elements('tag name', 'img')
    )


# ---------------------------------------------------------------- responses


@pytest.fixture
def key(tmp_path, trials):
    return trial_page(trials, tmp_path / 's.html')


def test_partial_response_counts_and_order_does_not_matter(tmp_path, key):
    part = response(key)
    part['answers'] = part['answers'][:3][::-1]
    write_json(part, tmp_path / 'r' / 'a.json')
    got, rejected = read_responses(tmp_path / 'r', key)
    assert (
        len(got) == 3
        and not rejected
        and tuple(got.columns) == RESPONSE_COLUMNS
        and set(got.choice) == {'target'}
    )


def broken(key, **changes):
    r = copy.deepcopy(response(key)) | {
        k: v for k, v in changes.items() if k not in ('trial', 'choice', 'seconds')
    }
    r['answers'][2:3] = (
        [
            r['answers'][2]
            | {k: v for k, v in changes.items() if k in ('trial', 'choice', 'seconds')}
        ]
        if r['answers']
        else []
    )
    return r


@pytest.mark.parametrize(
    'changes, says',
    [
        (dict(fingerprint='0' * 16), 'another survey'),
        (dict(fingerprint=None), 'another survey'),
        (dict(trial='ffffffffffff'), 'not in the key'),
        (dict(trial=['a']), 'not in the key'),
        (dict(choice='both'), 'none of left'),
        (dict(choice=['left']), 'none of left'),
        (dict(choice={}), 'none of left'),
        (dict(seconds=-1), 'seconds'),
        (dict(seconds=True), 'seconds'),
        (dict(seconds=None), 'seconds'),
        (dict(participant=' '), 'no participant'),
        (dict(participant=7), 'no participant'),
        (dict(answers=[]), 'single answer'),
    ],
)
def test_bad_response_is_named_and_the_good_ones_kept(tmp_path, key, changes, says):
    write_json(response(key, 'good'), tmp_path / 'r' / 'good.json')
    write_json(broken(key, **changes), tmp_path / 'r' / 'bad.json')
    got, rejected = read_responses(tmp_path / 'r', key)
    assert set(got.participant) == {'good'} and len(got) == 12
    assert (
        len(rejected) == 1
        and isinstance(rejected[0], BadFile)
        and Path(rejected[0].path).name == 'bad.json'
        and re.search(says, rejected[0].reason)
    )


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{"a": ',
        b'\xff\xfe\x00',
        b'[]',
        b'null',
        b'{"answers": 3}',
        b'{"answers": [1], "fingerprint": "%s", "participant": "x"}',
        b'[' * 100000,
        b'NaN',
    ],
)
def test_any_bytes_are_set_aside(tmp_path, key, content):
    (tmp_path / 'r').mkdir()
    (tmp_path / 'r' / 'x.json').write_bytes(
        content.replace(b'%s', key['fingerprint'].encode())
    )
    got, rejected = read_responses(tmp_path / 'r', key)
    assert (
        len(got) == 0 and len(rejected) == 1 and tuple(got.columns) == RESPONSE_COLUMNS
    )


def test_first_file_of_a_participant_counts(tmp_path, key):
    write_json(response(key, 'K7M2'), tmp_path / 'r' / 'a.json')
    write_json(response(key, 'k7m2 ', lambda t: 'neither'), tmp_path / 'r' / 'b.json')
    got, rejected = read_responses(tmp_path / 'r', key)
    assert set(got.choice) == {'target'} and 'a.json' in rejected[0].reason


def test_a_rejected_file_does_not_take_the_name(tmp_path, key):
    write_json(broken(key, choice='both'), tmp_path / 'r' / 'a.json')
    write_json(response(key), tmp_path / 'r' / 'b.json')
    got, rejected = read_responses(tmp_path / 'r', key)
    assert len(got) == 12 and len(rejected) == 1


def test_trial_twice_in_a_file(tmp_path, key):
    r = response(key)
    r['answers'].append(r['answers'][0])
    write_json(r, tmp_path / 'r.json')
    assert 'twice' in read_responses([tmp_path / 'r.json'], key)[1][0].reason


def test_missing_folder_file_and_key(tmp_path, key):
    with pytest.raises(BadInput, match='not a folder'):
        read_responses(tmp_path / 'nowhere', key)
    with pytest.raises(BadInput, match='key'):
        read_responses(tmp_path, {})
    with pytest.raises(BadFile):
        read_responses(tmp_path, tmp_path / 'no.key.json')
    assert (
        'does not exist' in read_responses([tmp_path / 'gone.json'], key)[1][0].reason
    )
    got, rejected = read_responses(tmp_path, tmp_path / 's.key.json')
    assert len(got) == 0 and rejected == [], 'the key in the folder is no response'


# ---------------------------------------------------------------- counting


def answers(*rows):
    return pd.DataFrame(
        [
            dict(
                participant=p,
                trial=f'{p}{i}{r}',
                repeat=r,
                item=i,
                label='x',
                choice=c,
                seconds=1.0,
            )
            for p, i, r, c in rows
        ],
        columns=RESPONSE_COLUMNS,
    )


def test_wilson_by_hand():
    for k, n in ((0, 10), (8, 10), (81, 100), (10, 10)):
        p, z = k / n, 1.959963984540054
        mid, half = (
            (p + z * z / 2 / n) / (1 + z * z / n),
            z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / (1 + z * z / n),
        )
        assert np.allclose(
            wilson_interval(k, n),
            (p, max(0, mid - half), min(1, mid + half)),
            atol=1e-9,
        )
    assert np.isnan(wilson_interval(0, 0)).all()


def test_mean_is_over_repeats_and_an_integer():
    rows = (
        [('a', i, 1, 'target') for i in range(4)]
        + [('a', i, 2, 'target' if i else 'other') for i in range(4)]
        + [('a', 0, 3, 'neither')]
    )
    table = survey_table(answers(*rows))
    assert table.loc['mean', list(RESPONSE_KINDS)].to_list() == [
        round((100 + 75 + 0) / 3),
        round(25 / 3),
        round(100 / 3),
    ]
    assert np.isclose(table.loc['all', 'target'], 700 / 9) and table.n.to_list() == [
        4,
        4,
        1,
        9,
        9,
    ]
    assert (
        table.loc['mean'].filter(like='_').isna().all()
        and table.loc['all', 'participants'] == 1
    )


def test_agreement_needs_every_repeat():
    rows = (
        [('a', 0, r, 'target') for r in (1, 2, 3)]
        + [('a', 1, r, c) for r, c in zip((1, 2, 3), RESPONSE_KINDS)]
        + [('b', 0, 1, 'other'), ('b', 0, 2, 'other')]
    )
    got = self_agreement(answers(*rows))
    assert got['a'] == 0.5 and np.isnan(got['b']), 'b was not asked a third time'
    assert survey_table(answers(*rows)).loc['all', 'agreement'] == 0.5
    assert np.isnan(self_agreement(answers(('a', 0, 1, 'target')))['a']), 'asked once'


def test_nothing_is_made_of_nothing():
    table = survey_table(answers())
    assert (
        list(table.index) == ['all', 'mean']
        and table[list(RESPONSE_KINDS)].isna().all(axis=None)
        and len(self_agreement(answers())) == 0
    )


def test_unknown_choice_is_refused():
    with pytest.raises(BadInput, match='left'):
        survey_table(answers(('a', 0, 1, 'left')))


def test_proxy():
    got = choose_by_model([0.9, 0.2, 0.1, 0.5, 0.3], [0.1, 0.8, 0.1, 0.5, 0.2], 0.3)
    assert got.tolist() == ['target', 'other', 'neither', 'neither', 'target']
    rows = proxy_responses(got, ['x'] * 5)
    table = survey_table(rows)
    assert (
        tuple(rows.columns) == RESPONSE_COLUMNS
        and 'no people' in rows.participant[0]
        and table.loc['mean', list(RESPONSE_KINDS)].to_list() == [40, 20, 40]
    )
    for a, b in (([0.1], [0.1, 0.2]), ([[0.1]], [[0.2]]), ([np.nan], [0.1])):
        with pytest.raises(BadInput):
            choose_by_model(a, b, 0.3)
    with pytest.raises(BadInput):
        proxy_responses(got, ['x'])

"""What is asked of the built site: links, weights, words for pictures, and how pages look in a browser.

`python tests/site_pages.py build/site` checks every page by its text; `--browser` looks at a few of them, too, and
`--browser --all` at every one, both as wide as a telephone and as a desk. `--shots FOLDER` keeps what was seen.
"""

import argparse
import collections
import contextlib
import functools
import http.server
import json
import os
import sys
import tempfile
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

WIDTHS = 390, 1440
FIRST_PAGE, ANY_PAGE = 1_000_000, 3_000_000  # bytes, with all that a page loads
FEW = (
    'index.html',
    'nbs/guides/listen.html',
    'nbs/02_foley/08_pictures.html',
    'nbs/11_gloss/05_bridge.html',
    'reference/api/model.html',
    'results/reports/report.html',
    'results/tables/claims.html',
    'settings.html',
)


class Page(HTMLParser):
    "What a page links to, what it loads, its anchors, and its pictures without words."

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)
        self.links, self.loaded, self.ids, self.wordless = [], [], set(), []
        self.feed(self.path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and 'href' in a:
            self.links.append(a['href'])
        if tag == 'img' and not a.get('alt', '').strip():
            self.wordless.append(a.get('src', '')[:80])
        kept = tag in ('script', 'img', 'audio', 'source') and a.get('src')
        styled = tag == 'link' and 'stylesheet' in a.get('rel', '') and a['href']
        if place := kept or styled:
            self.loaded.append(place)


def read_pages(site) -> dict:
    site = Path(site).resolve()
    return {
        p: Page(p) for p in sorted(site.rglob('*.html')) if '_static' not in p.parts
    }


def is_own(link) -> bool:
    return not (urlsplit(link).scheme or urlsplit(link).netloc)


def target_of(page, link):
    "The file and the anchor of a link."
    place, anchor = urldefrag(link)
    place = unquote(urlsplit(place).path)
    return (page.path.parent / place).resolve() if place else page.path, unquote(anchor)


def broken_links(pages) -> list:
    "Links and loaded files that lead nowhere: 'page: link'."
    broken = []
    for path, page in pages.items():
        for link in filter(is_own, {*page.links, *page.loaded}):
            file, anchor = target_of(page, link)
            known = pages.get(file)
            if not file.is_file() or anchor and known and anchor not in known.ids:
                broken.append(f'{path.name}: {link}')
    return sorted(broken)


def page_weights(pages) -> dict:
    "Bytes of each page with its styles, scripts and pictures."
    sizes = {}
    for path, page in pages.items():
        files = {target_of(page, f)[0] for f in page.loaded if is_own(f)}
        sizes[path] = sum(os.path.getsize(f) for f in {path, *files} if f.is_file())
    return sizes


def loaded_from_elsewhere(pages) -> list:
    "What a reader's browser would fetch from other machines."
    return [
        f'{path.name}: {place}'
        for path, page in pages.items()
        for place in page.loaded
        if not is_own(place) and not place.startswith('data:')
    ]


def wordless_pictures(pages) -> list:
    return [
        f'{path.name}: {src}' for path, page in pages.items() for src in page.wordless
    ]


# ---- in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@contextlib.contextmanager
def served(site):
    "Serve a folder on this machine; yields its address."
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


OVERFLOW = """
const most = document.documentElement.clientWidth;
return Math.max(document.body.scrollWidth, document.documentElement.scrollWidth) - most;
"""

# WCAG 2: relative luminance, and the ratio of the lighter to the darker
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function light([r, g, b]) {
  const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
}
function behind(e) {
  for (; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] > 250) return c;
  }
  return [255, 255, 255, 255];
}
const poor = {};
const kinds = 'p, li, td, th, code, pre, pre span, a, dt, dt span, h1, h2, h3, figure, figcaption';
const texts = document.querySelectorAll(`article :is(${kinds}), .sidebar-tree a, .toc-tree a`);
for (const e of [...texts].slice(0, 4000)) {
  const own = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
  const box = e.getBoundingClientRect();
  if (!own || !box.width || !box.height) continue;
  const style = getComputedStyle(e);
  const a = light(rgba(style.color)), b = light(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const large = parseFloat(style.fontSize) >= 24;
  if (ratio < (large ? 3 : 4.5))
    poor[`${e.tagName}.${e.className} in ${e.parentElement.className} ${style.color}`] =
      `${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`;
}
return poor;
"""

PLAY = """
const done = arguments[0], sound = document.querySelector('audio');
if (!sound) { done(-1); return; }
sound.muted = true;
sound.play().then(() => setTimeout(() => done(sound.readyState), 300), e => done(String(e)));
"""


def set_width(driver, width):
    size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)


def set_theme(driver, theme):
    driver.execute_script(f"document.body.dataset.theme = '{theme}'")


def console_errors(driver) -> list:
    return [
        m['message'][:200] for m in driver.get_log('browser') if m['level'] == 'SEVERE'
    ]


def requested(driver) -> set:
    "The addresses that pages asked for since the last call."
    found = set()
    for entry in driver.get_log('performance'):
        message = json.loads(entry['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            found.add(message['params']['request']['url'])
    return found


def keep_shot(driver, folder, name, width, theme):
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = f'{name.replace("/", "-").removesuffix(".html")}-{width}-{theme}.png'
        driver.save_screenshot(str(Path(folder) / file))


def look_at(driver, address, name, shots=None) -> list:
    "Faults of a page: wider than the window, errors, other machines asked, text that is hard to read."
    faults = []
    for width in WIDTHS:
        set_width(driver, width)
        driver.get(f'{address}/{name}')
        if (over := driver.execute_script(OVERFLOW)) > 0:
            faults.append(f'{name} at {width} px: {over} px too wide')
        for theme in ('light', 'dark'):
            set_theme(driver, theme)
            keep_shot(driver, shots, name, width, theme)
            if width == max(WIDTHS):
                poor = driver.execute_script(CONTRAST)
                faults += [
                    f'{name}, {theme}: contrast {r} [{k}]' for k, r in poor.items()
                ]
    faults += [f'{name}: {e}' for e in console_errors(driver)]
    away = (
        u
        for u in requested(driver)
        if u.startswith('http') and not u.startswith(address)
    )
    return faults + [f'{name} asks {u}' for u in away]


def search(driver, address, words, seconds=20) -> list:
    "The titles that the search of the site finds."
    driver.get(f'{address}/search.html?q={words}')
    titles, last = [], time.time() + seconds
    while not titles and time.time() < last:
        time.sleep(0.2)
        found = driver.find_elements('css selector', '#search-results li a')
        titles = [a.text for a in found]
    return titles


def play(driver, address, name) -> int:
    "How ready a page's first sound is when it plays: 4, it can be played to its end; -1: there is none."
    driver.get(f'{address}/{name}')
    return driver.execute_async_script(PLAY)


@contextlib.contextmanager
def browser():
    from browser import open_chromium

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        opened = open_chromium(home, 'autoplay-policy=no-user-gesture-required')
        yield from opened


def text_faults(site) -> list:
    "Faults that need no browser."
    pages = read_pages(site)
    sizes = page_weights(pages)
    front = Path(site).resolve() / 'index.html'
    faults = [f'broken: {b}' for b in broken_links(pages)]
    faults += [f'no words for a picture: {w}' for w in wordless_pictures(pages)]
    faults += [f'from elsewhere: {e}' for e in loaded_from_elsewhere(pages)]
    most = collections.defaultdict(lambda: ANY_PAGE, {front: FIRST_PAGE})
    faults += [f'{p.name}: {n} bytes' for p, n in sizes.items() if n > most[p]]
    worst = max(sizes, key=sizes.get)
    print(
        f'{len(pages)} pages; first {sizes[front]:,} bytes; heaviest {worst.name} {sizes[worst]:,}'
    )
    return faults


def browser_faults(site, names, shots=None) -> list:
    faults = []
    with served(site) as address, browser() as driver:
        for name in names:
            faults += look_at(driver, address, name, shots)
        found = search(driver, address, 'DS-Net')
        print('DS-Net is found in', len(found), 'pages; first:', found[:1])
        ready = play(driver, address, 'index.html')
        print('the first sound is ready:', ready)
    faults += [] if found else ['the search finds no DS-Net']
    return faults + ([] if ready == 4 else [f'no sound plays: {ready}'])


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    a.add_argument('site')
    a.add_argument('--browser', action='store_true')
    a.add_argument('--all', action='store_true')
    a.add_argument('--shots')
    a = a.parse_args()
    faults = text_faults(a.site)
    if a.browser:
        root = Path(a.site).resolve()
        every = [str(p.relative_to(root)) for p in read_pages(root)]
        faults += browser_faults(root, every if a.all else FEW, a.shots)
    print('\n'.join(faults) or 'no faults')
    sys.exit(bool(faults))

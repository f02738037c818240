"A real browser for the tests of pages: chromium or chrome, without a window, with a chromedriver."

import shutil

import pytest

NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
FLAGS = (
    'headless=new',
    'no-sandbox',
    'disable-gpu',
    'disable-quic',
    'no-first-run',
    'disable-background-networking',
    'disable-component-update',
    'disable-sync',
    'disable-dev-shm-usage',
    'mute-audio',
)


def open_chromium(home, *flags):
    "Yield a driver whose browser keeps its files in `home` and logs console and requests. Skips without one."
    why = 'selenium is not installed'
    webdriver = pytest.importorskip('selenium.webdriver', reason=why)
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    chromedriver = shutil.which('chromedriver')
    if not (browser and chromedriver):
        pytest.skip('no chromium (or chrome) with a chromedriver on this machine')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, *flags, f'user-data-dir={home}'):
        options.add_argument(f'--{flag}')
    logs = {'browser': 'ALL', 'performance': 'ALL'}
    options.set_capability('goog:loggingPrefs', logs)
    service = webdriver.ChromeService(chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()

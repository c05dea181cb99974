"""What a person sees in a browser: the report page, and MLflow's pages of a finished suite."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.command import ROOT, bench

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
METHODS = ("independent", "ract")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that only ever opens pages of this machine."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("window-size=1500,1800", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pictures():
    """Where screenshots are kept for people to look at."""
    folder = ROOT / "results" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def complaints(browser):
    """Errors of the page's own scripts; a page asks for no favicon of ours."""
    entries = browser.get_log("browser")
    return [
        entry["message"]
        for entry in entries
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ]


def open_page(browser, address, width):
    """Open an address on a screen of a width; the browser keeps the width until another is set."""
    size = {"width": width, "height": 1800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)


def wait_for(condition, seconds=240):  # a busy machine needs a minute for MLflow's page
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError("it did not appear")


@pytest.mark.parametrize(("name", "width"), [("desktop", 1300), ("phone", 400)])
def test_the_report_shows_tables_curves_and_flips(finished, browser, pictures, name, width):
    results, _ = finished
    bench("report", "--results", results)
    page = results / "reports" / "tiny" / "report.html"
    open_page(browser, page.as_uri(), width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    text = browser.find_element("tag name", "body").text
    for expected in ("extended-class", "independent", "ract", "AUC NFR@1"):
        assert expected in text
    assert browser.find_elements("tag name", "table")
    images = browser.find_elements("css selector", "img, svg")
    assert len(images) >= 2
    for image in browser.find_elements("tag name", "img"):
        assert image.get_attribute("alt")
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(overflow) <= 1
    assert complaints(browser) == []
    browser.save_screenshot(str(pictures / f"report-{name}.png"))


@pytest.fixture(scope="module")
def server(finished):
    """The addresses that `python -m bench ui` prints."""
    results, _ = finished
    command = [sys.executable, "-m", "bench", "ui", "--results", str(results)]
    environment = {**os.environ, "COLUMNS": "5000", "PYTHONUNBUFFERED": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        line = next(line for line in process.stdout if "http://" in line)
        yield line.split(": ", 1)[1].strip()
        process.terminate()


def test_mlflow_opens_with_curves_grouped_by_method(server, browser, pictures):
    assert server.startswith("http://127.0.0.1:")
    assert len(server) < 160
    with urllib.request.urlopen(server.partition("#")[0]) as answer:
        assert answer.status == 200
    open_page(browser, server, 1500)
    body = browser.find_element("tag name", "body")
    # Legends of the two lines: one curve per method and metric, and no other group.
    legends = [f"{method} ({key})" for method in METHODS for key in ("mAP", "NFR_at_1")]
    wait_for(lambda: all(each in body.text for each in legends))
    time.sleep(2)
    browser.save_screenshot(str(pictures / "mlflow-compare.png"))
    for expected in ("Group by: method", "AUC_mAP", "AUC_NFR_at_1 vs. M_new_new"):
        assert expected in body.text
    for method in METHODS:
        assert f"Group: {method}" in body.text
    assert "Unassigned" not in body.text
    assert "Training runs" not in body.text  # which is what MLflow calls them among GenAI pages
    scripts = [entry for entry in complaints(browser) if "TypeError" in entry]
    assert scripts == []

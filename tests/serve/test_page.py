"""The page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.colour_encoder import paint

from cl2cm_jax.search.entry import id_of
from cl2cm_jax.serve.limits import Limits

from .conftest import application, serving

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
    ),
]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1100,800")  # fmt: skip
PLACEHOLDER = """
const box = document.querySelector("#query"), context = document.createElement("canvas").getContext("2d");
context.font = getComputedStyle(box).font;
return context.measureText(box.placeholder).width;
"""  # in pixels
ROWS = "return new Set([...document.querySelectorAll('#filters label')].map(one => one.offsetTop)).size"
ROOM = "return document.querySelector('#query').clientWidth - 20"  # less the padding
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


class Page:
    """The page in a browser."""

    def __init__(self, browser, port: int):
        self.browser = browser
        browser.get("about:blank")
        browser.get(f"http://127.0.0.1:{port}/")
        self.until(lambda: self.find("#lead").text.endswith("pictures.") or self.find("#login").is_displayed())

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def until(self, holds: Callable[[], object]) -> None:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(
            self.browser, 300, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        wait.until(lambda _: holds())

    def state(self) -> str:
        return self.browser.execute_script("return document.body.dataset.state")

    def captions(self) -> list[str]:
        return [card.text for card in self.all(".card bdi")]

    def search(self, text: str, state: str = "results") -> None:
        box = self.find("#query")
        box.clear()
        box.send_keys(text + "\n")
        self.until(lambda: f"q={self.encoded(text)}" in self.browser.current_url and self.state() == state)

    def encoded(self, text: str) -> str:
        return self.browser.execute_script("return new URLSearchParams({q: arguments[0]}).toString().slice(2)", text)


@pytest.fixture
def page(browser, server):
    yield Page(browser, server.port)
    log = [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    faults = [entry for entry in log if "404" not in entry["message"]]  # two entries have no file that is served
    assert faults == []  # scripts, and what the content policy has blocked


@pytest.mark.parametrize(
    ("query", "language", "first"),
    [
        ("rot", "German", "a <b>red</b> picture"),
        ("赤", "Japanese", "a <b>red</b> picture"),
        ("أزرق", "Arabic", "blue.png"),
    ],
)
def test_search_in_three_scripts(page, query, language, first) -> None:
    page.search(query)
    assert page.captions()[0] == first and page.find("#status").text.startswith(f"{language} · best 5 of 5")
    page.until(lambda: page.browser.execute_script("return document.querySelector('.frame img').naturalWidth") == 480)


def test_arabic_text_is_right_to_left(page) -> None:
    page.search("أزرق")
    direction = "return getComputedStyle(document.querySelector(arguments[0])).direction"
    assert page.browser.execute_script(direction, "#query") == "rtl"
    arabic = [bdi for bdi in page.all(".card bdi") if bdi.text == "صورة حمراء"]
    assert arabic[0].value_of_css_property("direction") == "rtl" and arabic[0].get_attribute("lang") == "ar"
    page.search("rot")
    assert page.browser.execute_script(direction, "#query") == "ltr"


def test_a_picture_is_uploaded(page, tmp_path: Path) -> None:
    page.find("#file").send_keys(str(paint(tmp_path / "mine.png", "blue")))
    page.until(lambda: page.state() == "results")
    assert page.captions()[0] == "blue.png" and page.find("#subject").text == "Pictures like yours"


def test_each_uploaded_picture_has_its_address(page, tmp_path: Path) -> None:
    for colour, first in (("blue", "blue.png"), ("red", "a <b>red</b> picture")):
        page.find("#file").send_keys(str(paint(tmp_path / f"{colour}.png", colour)))
        page.until(lambda: page.state() == "results" and page.captions()[0] == first)  # noqa: B023
    page.browser.back()
    page.until(lambda: page.state() == "results" and page.captions()[0] == "blue.png")
    page.browser.refresh()
    page.until(lambda: page.state() == "error")
    assert page.find("#status").text == "Choose the picture again; it is not kept when the page is reloaded."


def test_a_file_that_is_not_a_picture_is_an_error(page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    page.find("#file").send_keys(str(tmp_path / "broken.png"))
    page.until(lambda: page.state() == "error")
    assert "is not an image" in page.find("#status").text and page.captions() == []
    assert not page.find("#subject").is_displayed()
    page.browser.get_log("browser")  # the refusal, 422


def test_no_result_has_a_message(page) -> None:
    page.find("#narrow").click()
    page.find("#path").send_keys("nowhere/")
    page.search("rot", state="empty")
    assert page.find("#status").text == "Nothing found: no picture of the index meets path=nowhere/."
    assert page.captions() == []


def test_filters_are_in_the_address(page) -> None:
    page.search("rot")
    assert "best 5 of 5" in page.find("#status").text and page.browser.title == "rot · Search"
    page.find("#narrow").click()
    page.find("#path").send_keys("sea/\n")
    page.until(lambda: page.captions() == ["blue.png"])
    assert "best 1 of the matching pictures" in page.find("#status").text
    page.browser.refresh()
    page.until(lambda: page.captions() == ["blue.png"])
    assert page.find("#path").get_attribute("value") == "sea/" and page.find("#filters").is_displayed()
    page.browser.back()
    page.until(lambda: len(page.captions()) == 5)
    assert page.find("#path").get_attribute("value") == ""


def test_only_languages_of_captions_are_offered(page) -> None:
    page.find("#narrow").click()
    assert [option.text for option in page.all("#language option")] == ["any language", "Arabic", "English"]


def test_no_language_is_offered_without_captions(browser, tmp_path) -> None:
    with serving(application(tmp_path / "photos", Limits(), captioned=False)) as running:
        page = Page(browser, running.port)
        page.find("#narrow").click()
        assert page.find("#path").is_displayed() and not page.find("#language").is_displayed()


def test_similar_pictures_on_a_touch_screen(page) -> None:
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        page.search("rot")
        page.until(lambda: page.find(".more").value_of_css_property("opacity") == "1")
        page.find(".more").click()
        page.until(lambda: id_of("red.png") in page.browser.current_url and page.state() == "results")
    finally:
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_from_a_picture_to_similar_ones_and_back(page) -> None:
    page.search("rot")
    page.all(".card")[0].click()
    page.until(lambda: page.find("#viewer").is_displayed())
    assert page.find(".caption").text == "a <b>red</b> picture" and "red.png · English" in page.find(".facts").text
    page.find("#viewer .similar").click()
    page.until(lambda: page.state() == "results" and len(page.captions()) == 4)
    assert id_of("red.png") in page.browser.current_url and "red.png" not in page.captions()
    page.browser.back()
    page.until(lambda: page.find("#query").get_attribute("value") == "rot" and len(page.captions()) == 5)


def test_by_keyboard_alone(page) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(page.browser).send_keys(*keys).perform()

    page.search("rot")
    press("/", "赤", Keys.ENTER)
    page.until(lambda: page.state() == "results" and "%E8%B5%A4" in page.browser.current_url)
    press("/", Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    places = [page.browser.switch_to.active_element == card for card in page.all(".card")]
    assert places == [False, True, False, False, False]
    press(Keys.ENTER)
    page.until(lambda: page.find("#viewer").is_displayed())
    press(Keys.ESCAPE)
    page.until(lambda: not page.find("#viewer").is_displayed())
    press("s")
    page.until(lambda: "similar=" in page.browser.current_url)


def test_results_have_the_focus_after_a_search_by_keyboard(page) -> None:
    from selenium.webdriver import ActionChains, Keys

    def first_is_active() -> bool:
        return page.browser.switch_to.active_element == page.all(".card")[0]

    page.search("rot")
    page.until(first_is_active)
    ActionChains(page.browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert page.browser.switch_to.active_element == page.all(".card")[1]
    place = page.browser.current_url
    for kind in ("keyDown", "keyUp"):  # the letter of that key on a Russian keyboard
        page.browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, "key": "ы", "code": "KeyS"})
    page.until(lambda: "similar=" in page.browser.current_url and page.state() == "results")
    page.until(first_is_active)
    page.browser.get(place)
    page.find("#query").click()
    page.until(lambda: page.state() == "results")
    assert page.browser.switch_to.active_element == page.find("#query")


def test_the_skip_link_leads_to_the_results(page) -> None:
    page.search("rot")
    page.browser.execute_script("document.querySelector('.skip').focus()")
    page.browser.switch_to.active_element.send_keys("\n")
    assert page.browser.switch_to.active_element == page.all(".card")[0] and len(page.captions()) == 5


def test_a_screen_reader_reads_a_caption_once(page) -> None:
    page.search("rot")
    names = [card.accessible_name for card in page.all(".card")]
    assert names[0].startswith("a <b>red</b> picture") and names[0].count("red") == 1


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_nothing_is_wider_than_the_screen(page, width) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.search("rot")
        page.find("#narrow").click()
        assert page.browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.browser.execute_script(ROWS) == (1 if width > 500 else 2)
        assert page.browser.execute_script(PLACEHOLDER) < page.browser.execute_script(ROOM)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark(page) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        colours = [page.find("body").value_of_css_property(name) for name in ("background-color", "color")]
        seen.append([sum(map(float, value[value.index("(") + 1 : -1].split(",")[:3])) for value in colours])
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen[0][0] > 600 > 200 > seen[0][1] and seen[1][0] < 200 < 600 < seen[1][1]


def test_a_stopped_service_has_a_message(browser, tmp_path) -> None:
    with serving(application(tmp_path / "photos", Limits())) as running:
        page = Page(browser, running.port)
    page.search("rot", state="error")
    assert page.find("#status").text == "The service does not answer. Is it still running?"
    browser.get_log("browser")


def test_the_token_is_requested_once(browser, tmp_path) -> None:
    with serving(application(tmp_path / "photos", Limits(token=TOKEN))) as running:
        page = Page(browser, running.port)
        for token, shown in (("wrong", True), (TOKEN, False)):
            page.find("#token").clear()
            page.find("#token").send_keys(token + "\n")
            page.until(lambda: page.find("#login").is_displayed() == shown)  # noqa: B023
            page.until(lambda: not shown or page.find("#login p").text == "wrong token")  # noqa: B023
        page.until(lambda: page.state() == "start")
        page.search("rot")
        assert len(page.captions()) == 5
        again = Page(browser, running.port)
        assert not again.find("#login").is_displayed()
        browser.delete_all_cookies()
        page = Page(browser, running.port)
    page.find("#token").send_keys(TOKEN + "\n")
    page.until(lambda: page.find("#login p").text == "The service does not answer. Is it still running?")
    browser.get_log("browser")

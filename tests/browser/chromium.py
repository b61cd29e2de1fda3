"""A Chromium without a window, as people use it: go there, press this, read that."""

import shutil
import tempfile
from base64 import b64decode
from os import environ
from pathlib import Path
from typing import Any, Final, Literal

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server", "--lang=en",
    "--force-device-scale-factor=1",
)  # fmt: skip
PATIENCE: Final = 20
Scheme = Literal["light", "dark"]


def find() -> tuple[str, str] | None:
    """The machine's Chromium and the chromedriver that belongs to it.

    `TEST_CHROMIUM` and `TEST_CHROMEDRIVER` name others than those on the path.
    """
    names = (environ.get("TEST_CHROMIUM") or "", *NAMES)
    browser = next(filter(None, map(shutil.which, filter(None, names))), None)
    driver = shutil.which(environ.get("TEST_CHROMEDRIVER") or "chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window of a Chromium of its own. The site is at *address*; `close` ends it."""

    def __init__(self, chromium: str, chromedriver: str) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="general_manager_chromium_", ignore_cleanup_errors=True
        )
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={self._folder.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = Chrome(options, ChromeService(chromedriver))
        self.address = ""

    def close(self) -> None:
        self._driver.quit()
        self._folder.cleanup()

    def forget(self) -> None:
        """Be a browser that nobody has used, at 1280 pixels, in light."""
        self._driver.get("about:blank")
        self._command("Network.clearBrowserCookies")
        self.resize(1280)
        self.prefer("light")
        self.complaints()

    def use_session(self, name: str, key: str) -> None:
        """Be logged in, with the session that has this *key*."""
        self._command("Network.setCookie", url=self.address, name=name, value=key)

    def resize(self, width: int, height: int = 900) -> None:
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def prefer(self, scheme: Scheme) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._command("Emulation.setEmulatedMedia", features=[feature])

    def visit(self, path: str) -> None:
        """Go to *path* of the site, or to a whole address."""
        self._driver.get(f"{self.address}{path}" if path.startswith("/") else path)

    @property
    def path(self) -> str:
        """Where we are on the site."""
        return self._driver.current_url.removeprefix(self.address)

    @property
    def title(self) -> str:
        return self._driver.title

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return self._driver.find_element(By.TAG_NAME, "body").text

    def texts(self, selector: str) -> list[str]:
        """What can be read in everything that *selector* finds."""
        return [one.text for one in self._driver.find_elements(By.CSS_SELECTOR, selector)]

    def press(self, words: str) -> None:
        """Press the link or button that says *words*, and wait for the page behind it."""
        self._follow(self._named(words))

    def press_first(self, selector: str) -> None:
        """Press what *selector* finds first, and wait for the page behind it."""
        self._follow(self._driver.find_element(By.CSS_SELECTOR, selector))

    def _follow(self, target: WebElement) -> None:
        self._driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
        target.click()
        WebDriverWait(self._driver, PATIENCE).until(lambda _: _is_gone(target))
        WebDriverWait(self._driver, PATIENCE).until(
            lambda driver: driver.execute_script("return document.readyState") == "complete"
        )

    def fill(self, label: str, text: str) -> None:
        """Write *text* into the field with this *label*."""
        xpath = f"//label[starts-with(normalize-space(), {_quoted(label)})]"
        named = self._driver.find_element(By.XPATH, xpath)
        field = self._driver.find_element(By.ID, str(named.get_attribute("for")))
        field.clear()
        field.send_keys(text)

    def tick(self, label: str) -> None:
        """Click the box or the choice with this *label*."""
        xpath = f"//label[contains(normalize-space(), {_quoted(label)})]"
        self._driver.find_element(By.XPATH, xpath).click()

    def choose(self, selector: str, value: str) -> None:
        """Choose what sends *value* from a list."""
        option = f'{selector} option[value="{value}"]'
        self._driver.find_element(By.CSS_SELECTOR, option).click()

    def click(self, selector: str) -> None:
        """Click what *selector* finds first, and wait for nothing."""
        self._driver.find_element(By.CSS_SELECTOR, selector).click()

    def run(self, script: str, *arguments: Any) -> Any:
        """What *script* returns, where the page's own policy for scripts does not reach."""
        return self._driver.execute_script(script, *arguments)

    def run_slowly(self, script: str, *arguments: Any) -> Any:
        """What *script* gives to the function that is its last argument."""
        self._driver.set_script_timeout(60)
        return self._driver.execute_async_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console said since this was last asked: errors, warnings, blocked files."""
        said = self._driver.get_log("browser")
        return [one["message"] for one in said if one["level"] in ("SEVERE", "WARNING")]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        root = "document.documentElement"
        return int(self.run(f"return {root}.scrollWidth - {root}.clientWidth"))

    def picture(self, selector: str | None = None) -> bytes:
        """The page, or one part of it, as a PNG: also what the window is too low for."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": True}
        if selector is None:
            size = self._command("Page.getLayoutMetrics")["cssContentSize"]
            clip = {key: size[key] for key in ("x", "y", "width", "height")}
        else:
            found = self._driver.find_element(By.CSS_SELECTOR, selector)
            clip = self.run(
                "const box = arguments[0].getBoundingClientRect();"
                "return {x: box.x + scrollX, y: box.y + scrollY,"
                " width: box.width, height: box.height}",
                found,
            )
        options["clip"] = {**clip, "scale": 1}
        return b64decode(self._command("Page.captureScreenshot", **options)["data"])

    def save_picture(self, path: Path, selector: str | None = None) -> None:
        path.write_bytes(self.picture(selector))

    def _command(self, name: str, /, **arguments: Any) -> Any:
        return self._driver.execute_cdp_cmd(name, arguments)

    def _named(self, words: str) -> WebElement:
        says = f"[normalize-space()={_quoted(words)} or @value={_quoted(words)}]"
        xpath = " | ".join(f"//{tag}{says}" for tag in ("a", "button", "input"))
        found = [one for one in self._driver.find_elements(By.XPATH, xpath) if one.is_displayed()]
        assert found, f"Nothing says {words!r} on {self.path}:\n{self.text}"
        return found[0]


def _is_gone(element: WebElement) -> bool:
    """Whether its page has been left; Chromium has two ways to say so while the next one loads."""
    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException as error:
        if "does not belong to the document" in str(error):
            return True
        raise
    return False


def _quoted(text: str) -> str:
    """*text* for an XPath, which knows no escapes."""
    return f"'{text}'" if "'" not in text else f'"{text}"'

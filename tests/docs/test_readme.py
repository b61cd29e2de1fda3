"""README.md is the package's page on the index, where a relative link leads nowhere."""

import re

from tests.docs_code import CHECKOUT


def test_the_readme_has_no_relative_link_or_picture():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link] == []
    assert "<img" not in text


def test_every_page_that_the_readme_names_is_there():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    pages = re.findall(r"`([a-z_]+\.md)`", text)
    assert len(pages) > 20
    assert [page for page in pages if not (CHECKOUT / "docs" / page).exists()] == []

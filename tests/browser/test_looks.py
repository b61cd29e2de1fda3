"""Whether everybody can read and use the pages: contrast, names, sizes, and nothing blocked."""

import pytest

from tests.browser.conftest import page_of

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

PAGES = {
    "overview": lambda story: page_of("overview"),
    "executions": lambda story: page_of("workflowexecutionrecord"),
    "filtered executions": lambda story: f"{page_of('workflowexecutionrecord')}?state=failed",
    "what waits": lambda story: story.execution(story.waiting),
    "what failed": lambda story: story.execution(story.failed),
    "events": lambda story: page_of("workfloweventrecord"),
    "event": lambda story: page_of("workfloweventrecord", "change", story.event.pk),
    "dead letters": lambda story: page_of("deadletter"),
    "dead letter": lambda story: page_of("deadletter", "change", story.letter.pk),
    "outbox": lambda story: page_of("workflowoutbox"),
    "schedules": lambda story: page_of("workflowschedule"),
    "schedule": lambda story: page_of("workflowschedule", "change", story.schedule.pk),
    "unpause a schedule": lambda story: story.schedule_act("unpause"),
    "answer": lambda story: story.act(story.waiting, "answer"),
    "cancel": lambda story: story.act(story.waiting, "cancel"),
    "too late": lambda story: story.act(story.failed, "cancel"),
    "time out": lambda story: story.act(story.waiting, "time_out"),
    "retry": lambda story: story.act(story.failed, "retry"),
    "go back": lambda story: f"{story.act(story.failed, 'retry')}?before=first",
    "resolve": lambda story: story.act(story.doubtful, "resolve"),
    "discard": lambda story: story.letter_act("discard"),
    "deliver again": lambda story: story.deliver_again,
    "deliver now": lambda story: "/admin/general_manager/workflowoutbox/drain/",
    "signed link": lambda story: story.link,
}


def opened(browser, path):
    browser.visit(path)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_read_and_use_it_in_light_and_in_dark(boss, story, axe, name):
    path = PAGES[name](story)
    for scheme in ("light", "dark"):
        boss.prefer(scheme)
        opened(boss, path)
        assert axe(boss) == [], scheme


def test_everybody_can_read_an_empty_site(boss, outbox, axe):
    for path in (page_of("overview"), page_of("workflowoutbox")):
        for scheme in ("light", "dark"):
            boss.prefer(scheme)
            opened(boss, path)
            assert axe(boss) == [], scheme


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(boss, story, width):
    boss.resize(width)
    wide = []
    for name, path in PAGES.items():
        opened(boss, path(story))
        if boss.overflow():
            wide.append(name)
    assert wide == []


@pytest.mark.parametrize("name", ["executions", "dead letters", "events", "outbox", "schedules"])
def test_every_column_of_a_list_is_seen_at_1280_pixels(boss, story, name):
    boss.visit(PAGES[name](story))
    hidden = (
        "const box = document.querySelector('.results'); return box.scrollWidth - box.clientWidth"
    )
    assert boss.run(hidden) <= 0


def test_nothing_is_written_into_the_pages_that_a_strict_policy_would_block(boss, story):
    inline = (
        "return document.querySelectorAll('style, [style], [onclick], script:not([src])').length"
    )
    for path in PAGES.values():
        opened(boss, path(story))
        assert boss.run(inline) == 0, boss.path
        assert boss.complaints() == [], boss.path

"""llms.txt on the built site."""

import re

import pytest

pytestmark = pytest.mark.timeout(0)  # the first test waits for notebooks that have not run yet


def test_every_link_of_llms_txt_leads_to_a_page_of_the_site(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((\S+?)\)", text) + re.findall(r"`(_sources/\S+\.\w+)`", text)
    assert len(targets) > 10
    assert [target for target in targets if not (site / target).is_file()] == []

"""The page's files: what is vendored is what its makers published, and nothing of ours needs more than the policy allows."""

import hashlib
import re

import pytest

from web_svc.files import STATIC, read_files
from web_svc.guard import HEADERS

VENDOR = STATIC / "vendor"
OURS = sorted(path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html"))


def test_what_is_vendored_has_the_checksums_it_came_with_and_its_licence() -> None:
    lines = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    named = {name: checksum for checksum, name in lines}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir() if path.name in named}
    assert found == named
    assert {path.name for path in VENDOR.iterdir()} == {*named, "SHA256SUMS", "README.md"}
    assert "MIT" in (VENDOR / "uPlot.LICENSE").read_text()
    assert re.search(r"uPlot (\d+\.\d+\.\d+)", (VENDOR / "README.md").read_text())


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_text_is_never_markup_and_nothing_is_inline_or_from_elsewhere(path: object) -> None:
    text = STATIC.joinpath(str(path)).read_text()
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"(on|style)"
    assert not re.findall(markup, text)
    assert not re.findall(r"<[^>]+\s(?:on\w+|style)=|<style|<script(?! type=\"module\" src=)", text)
    assert not re.findall(r"(?:src|href)=\"(?!data:)\w+:|url\(|@import|import\(|from \"(?!\./)", text)


def test_every_file_that_the_page_names_is_there() -> None:
    files = read_files()
    index = files["index.html"].content.decode()
    named = set(re.findall(r"(?:src|href)=\"([^\"]+)\"", index))
    for name, file in files.items():
        if name.endswith(".js") and "/" not in name:
            named |= {found.removeprefix("./") for found in re.findall(r"from \"([^\"]+)\"", file.content.decode())}
    assert named <= set(files)


def test_every_element_that_a_script_looks_for_is_in_the_page() -> None:
    index = (STATIC / "index.html").read_text()
    there = set(re.findall(r"id=\"([\w-]+)\"", index))
    wanted = {found for path in OURS if path.suffix == ".js" for found in re.findall(r"byId\(\"([\w-]+)\"\)", path.read_text())}
    assert wanted <= there


def test_the_policy_allows_nothing_but_our_own_files() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert {"base-uri", "form-action", "frame-ancestors", "script-src", "style-src", "connect-src"} <= set(policy)


def test_a_script_or_style_of_ours_has_at_most_300_lines() -> None:
    assert not [path.name for path in OURS if len(path.read_text().splitlines()) > 300]

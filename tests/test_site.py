"""The documentation as a site: it is built without a warning, and what it must show is there."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path

import click
import pytest
from mkdocs.utils.yaml import get_yaml_loader, yaml_load

from docs import make_api, site_hooks
from rsseg_tf.cli import main
from tests.fixtures.browser import CHROMIUM, browser

ROOT = Path(__file__).resolve().parents[1]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request."""

    def log_message(self, *args: object) -> None:
        pass


TASKS = re.findall(r"`(rsseg_tf\.[\w.]+)`", (ROOT / "docs" / "how_to.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the site as `make docs` does, strictly."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PIP_NO_INDEX": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_has_an_entry(site: Path) -> None:
    ids: set[str] = set()
    for page in (site / site_hooks.MODULES).rglob("*.html"):
        ids |= set(re.findall(r'id="(rsseg_tf[\w.]*)"', page.read_text("utf-8")))
    names = site_hooks.known_names()
    assert len(names) > 300 and {path for path in names.values() if path not in ids} == set()


@pytest.mark.slow
def test_every_command_has_a_page_with_its_options(site: Path) -> None:
    for name in main.list_commands(click.Context(main)):
        page = unescape((site / site_hooks.COMMANDS / name / "index.html").read_text("utf-8"))
        assert f"rsseg-tf {name}" in page and "--help" in page
    page = unescape((site / site_hooks.COMMANDS / "predict" / "index.html").read_text("utf-8"))
    assert "<code>--image-path" in page and page.count("<strong>") >= 3, "options stand in groups"


@pytest.mark.slow
def test_nothing_is_fetched_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="?https?://[^"\s>]*', text), page
        assert not re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect)"?[^>]*href="?https?://', text), page


@pytest.mark.slow
def test_pages_beside_docs_and_pictures_are_there_and_can_be_searched(site: Path) -> None:
    for place in ("index.html", "benchmarks/index.html", "export/index.html", "notebooks/own_scene/index.html"):
        assert (site / place).is_file()
    assert (site / "pictures" / "quickstart.jpg").is_file() and "pictures/quickstart.jpg" in (
        site / "index.html"
    ).read_text("utf-8")
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"] if "reliability diagram" in entry["text"]}
    assert "evaluation/" in found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look with")
def test_the_search_finds_a_page_and_no_script_complains(site: Path, tmp_path: Path) -> None:
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with browser(tmp_path) as tab:
                tab.open(f"http://127.0.0.1:{server.server_port}/?q=temperature")
                tab.wait("document.querySelectorAll('.md-search-result__item').length > 0", timeout=60)
                titles = tab.run("document.querySelector('.md-search-result__list').textContent")
                assert "A temperature" in titles and tab.complaints() == []
        finally:
            server.shutdown()


def test_tasks_name_functions_that_are_public() -> None:
    public = site_hooks.known_names()
    assert len(set(TASKS)) >= 20
    assert [name for name in TASKS if name not in public and not name.endswith("rgb_to_ids")] == []
    assert "rsseg_tf" in make_api.public_modules()


def test_the_tree_names_every_page() -> None:
    config = yaml_load((ROOT / "mkdocs.yml").read_text("utf-8"), loader=get_yaml_loader())
    named = {match for match in re.findall(r"[\w/]+\.md", json.dumps(config["nav"]))}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert pages | notebooks | set(site_hooks.BESIDE.values()) == named


def test_headings_have_the_anchors_of_the_repository() -> None:
    assert site_hooks.github_slug("A `name_of` thing: 2 x 3, and more", "-") == "a-name_of-thing-2-x-3-and-more"
